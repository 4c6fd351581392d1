"""Every code has its row, every row its exit status, and messages say what to do next."""

from typing import get_args

import pytest

from sdistrib import errors
from sdistrib.errors import (
    ERROR_CODES,
    ERROR_TABLE,
    ConfigError,
    EngineError,
    ErrorCode,
    ErrorInfo,
    PetitionError,
    ProtocolError,
    SdistribError,
    StoreError,
)

#: 1 failed, 2 usage, 4 model or LoRA not found, 5 engine crashed, 6 time-out, 7 refused.
EXITS = {
    1: {"engine_error", "worker_lost", "cancelled", "not_found", "internal"},
    2: {"invalid_params", "unsupported"},
    4: {"model_not_found", "lora_not_found"},
    5: {"out_of_memory", "engine_crashed", "engine_hung", "quarantined"},
    6: {"expired"},
    7: {"too_large", "no_capable_worker", "busy", "conflict", "unauthorized", "protocol_error"},
}


def test_every_code_has_exactly_one_row_and_the_exit_status_that_is_promised():
    assert set(ERROR_TABLE) == set(get_args(ErrorCode)) == ERROR_CODES
    by_exit: dict[int, set[str]] = {}
    for code, row in ERROR_TABLE.items():
        by_exit.setdefault(row.exit_status, set()).add(code)
    assert by_exit == EXITS


def test_statuses_without_a_code_are_those_of_the_manual():
    assert (errors.EXIT_OK, errors.EXIT_FAILED, errors.EXIT_USAGE) == (0, 1, 2)
    assert (errors.EXIT_UNREACHABLE, errors.EXIT_INTERRUPTED) == (3, 130)


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_a_row_says_what_happened_and_what_to_do_in_whole_sentences(code):
    row = ERROR_TABLE[code]
    assert 400 <= row.http_status < 600
    for sentence in (row.meaning, row.next_step):
        assert sentence.endswith(".")
        assert sentence[0].isupper()
        assert "\n" not in sentence


def test_a_sentence_carries_place_closest_names_and_next_step():
    info = ErrorInfo(
        code="model_not_found", message="No x.", worker="gpu1", attempt=2, closest=("a", "b")
    )
    sentence = info.sentence()
    assert sentence.startswith("No x. (on gpu1, attempt 2) Closest: a, b. ")
    assert sentence.endswith(ERROR_TABLE["model_not_found"].next_step)
    assert ErrorInfo(code="busy", message="Full.").sentence().startswith("Full. Wait")


def test_the_family():
    for kind in (ProtocolError, PetitionError, EngineError, StoreError, ConfigError):
        assert issubclass(kind, SdistribError)
    error = PetitionError.of("busy", "Full.", retry_after_s=3.0, field="x")
    assert (error.code, error.info.retry_after_s, error.info.field) == ("busy", 3.0, "x")
    assert str(error) == "Full."
    assert str(EngineError(ErrorInfo(code="engine_hung", message="Silent."))) == "Silent."


def test_a_code_that_is_none_cannot_be_made():
    with pytest.raises(ValueError, match="enum"):
        PetitionError.of("no_such_code", "x")  # type: ignore[arg-type]
