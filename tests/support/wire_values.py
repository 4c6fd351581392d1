"""Values of any msgspec type, for hypothesis: every bound of the type is kept and reached."""

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as kinds

#: Text that UTF-8 can hold; short, since long text has tests of its own.
_TEXT = st.characters(exclude_categories=["Cs"])


@cache
def values(of: Any) -> st.SearchStrategy[Any]:
    """Instances of a msgspec struct, or of any annotated type."""
    return _from(kinds.type_info(of))


def _from(kind: kinds.Type) -> st.SearchStrategy[Any]:
    return _MAKERS[type(kind)](kind)


def _int(kind: kinds.IntType) -> st.SearchStrategy[Any]:
    most = kind.le if kind.le is not None else 2**63 - 1
    most = kind.lt - 1 if kind.lt is not None else most
    least = kind.ge if kind.ge is not None else -(2**63)
    step = kind.multiple_of or 1
    return st.integers(-(-least // step), most // step).map(lambda n: n * step)


def _float(kind: kinds.FloatType) -> st.SearchStrategy[Any]:
    least = kind.ge if kind.ge is not None else kind.gt
    numbers = st.floats(
        least, kind.le, exclude_min=kind.gt is not None, allow_nan=False, allow_infinity=False
    )
    return numbers.map(lambda x: x + 0.0)


def _str(kind: kinds.StrType) -> st.SearchStrategy[Any]:
    if kind.pattern:
        return st.from_regex(kind.pattern, fullmatch=True)
    return st.text(_TEXT, min_size=kind.min_length or 0, max_size=min(kind.max_length or 30, 30))


def _list(kind: kinds.VarTupleType) -> st.SearchStrategy[Any]:
    return st.lists(_from(kind.item_type), min_size=kind.min_length or 0, max_size=4).map(tuple)


_MAKERS: dict[type[kinds.Type], Callable[[Any], st.SearchStrategy[Any]]] = {
    kinds.IntType: _int,
    kinds.FloatType: _float,
    kinds.StrType: _str,
    kinds.BoolType: lambda kind: st.booleans(),
    kinds.NoneType: lambda kind: st.none(),
    kinds.LiteralType: lambda kind: st.sampled_from(kind.values),
    kinds.VarTupleType: _list,
    kinds.TupleType: lambda kind: st.tuples(*map(_from, kind.item_types)),
    kinds.UnionType: lambda kind: st.one_of(*map(_from, kind.types)),
    kinds.DictType: lambda kind: st.dictionaries(
        _from(kind.key_type), _from(kind.value_type), max_size=3
    ),
    kinds.StructType: lambda kind: _struct(kind.cls),
}


def _struct(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    info = kinds.type_info(cls)
    assert isinstance(info, kinds.StructType)
    return st.builds(cls, **{field.name: _from(field.type) for field in info.fields})
