"""Which contexts stay loaded: never too many, the last used ones, each freed once."""

from hypothesis import given
from hypothesis import strategies as st

from sdistrib_worker.engine.contexts import Contexts


class Memory:
    """Contexts whose handles are their keys, and what became of them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.told: tuple[str, ...] = ()
        self.contexts: Contexts[str] = Contexts(self._free, self._changed)

    def _free(self, handle: str) -> None:
        self.events.append(f"-{handle}")

    def _changed(self, keys: tuple[str, ...]) -> None:
        assert keys == self.contexts.keys
        self.told = keys

    def ask(self, key: str, size: int = 1, most: int = 2, bytes_max: int = 0) -> str:
        """What happens for a request of this context: "+a" is a load, "-a" a freeing."""
        before = len(self.events)
        if self.contexts.use(key) is None:
            self.contexts.make_room(key, size, most, bytes_max)
            self.events.append(f"+{key}")
            self.contexts.add(key, size, key)
        assert self.told == self.contexts.keys
        assert self.told[0] == key
        return " ".join(self.events[before:])


def test_the_least_lately_used_goes_before_another_is_loaded():
    memory = Memory()
    assert [memory.ask(key) for key in "abacbb"] == ["+a", "+b", "", "-b +c", "-a +b", ""]
    assert memory.told == ("b", "c")
    assert len(memory.contexts) == 2


def test_one_is_kept_when_one_may_be():
    memory = Memory()
    assert [memory.ask(key, most=1) for key in "aaba"] == ["+a", "", "-a +b", "-b +a"]


def test_a_smaller_number_takes_effect_with_the_next_load():
    memory = Memory()
    for key in "abc":
        memory.ask(key, most=3)
    assert memory.ask("a", most=1) == ""
    assert memory.ask("d", most=1) == "-b -c -a +d"


def test_the_budget_holds_at_n_and_not_at_n_plus_1():
    memory = Memory()
    for key, size in (("a", 3), ("b", 3), ("c", 4)):
        memory.ask(key, size, most=9, bytes_max=10)
    assert memory.told == ("c", "b", "a")
    assert memory.ask("d", 1, most=9, bytes_max=10) == "-a +d"
    assert memory.ask("e", 3, most=9, bytes_max=10) == "-b +e"


def test_what_is_larger_than_the_budget_stays_alone():
    memory = Memory()
    memory.ask("a", 3, bytes_max=10)
    assert memory.ask("b", 11, bytes_max=10) == "-a +b"
    assert memory.ask("b", 11, bytes_max=10) == ""


def test_one_that_is_spoilt_goes_alone():
    memory = Memory()
    for key in "ab":
        memory.ask(key)
    memory.contexts.free("b")
    assert (memory.events[-1], memory.told) == ("-b", ("a",))
    memory.contexts.free("b")
    assert memory.events == ["+a", "+b", "-b"]


def test_room_for_the_same_key_frees_what_is_there_under_it_first():
    memory = Memory()
    memory.ask("a")
    memory.ask("b")
    memory.contexts.make_room("b", 1, 2, 0)
    assert memory.events[-1] == "-b"
    assert memory.told == ("a",)


def test_all_others_or_all_are_freed():
    memory = Memory()
    memory.ask("a")
    memory.ask("b")
    assert memory.contexts.free_all(but="b")
    assert memory.told == ("b",)
    assert not memory.contexts.free_all(but="b")
    assert memory.contexts.free_all()
    assert memory.told == ()
    assert not memory.contexts.free_all()


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 4), st.integers(0, 12))),
)
def test_every_handle_is_freed_once_and_no_bound_is_broken(asked):
    memory, sizes = Memory(), {key: number for number, key in enumerate("abcdef", 1)}
    for key, most, bytes_max in asked:
        loads = f"+{key}" in memory.ask(key, sizes[key], most, bytes_max)
        kept = memory.told
        if loads:
            assert len(kept) <= most
            assert not bytes_max or sum(map(sizes.get, kept)) <= bytes_max or kept == (key,)
    memory.contexts.free_all()
    for key in "abcdef":
        mine = [event for event in memory.events if event[1] == key]
        assert mine == [f"+{key}", f"-{key}"] * (len(mine) // 2)
