"""The figures' arithmetic and their table; one figure of each cheap kind for real."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.stamped import gaps_s
from bench.stats import Figure, Outcome, Sample, measured, number, plain, row, table


def _figure(sense: str = "<=", limit: float = 2.0, values: tuple[Sample, ...] = ()) -> Figure:
    def measure(rounds: int) -> Iterator[Sample]:
        yield from values[:rounds]

    return Figure("speed", "ours, by theirs", limit, sense, "x", "ms", 3, measure)  # type: ignore[arg-type]


def _outcome(*values: float, sense: str = "<=", limit: float = 2.0) -> Outcome:
    return Outcome(_figure(sense, limit), tuple(Sample(value) for value in values))


def test_a_ratio_is_taken_pair_by_pair_and_not_of_medians():
    samples = (Sample.ratio(1.0, 1.0), Sample.ratio(4.0, 2.0), Sample.ratio(9.0, 3.0))
    outcome = Outcome(_figure(), samples)
    assert outcome.median == 2.0
    assert outcome.spread == (1.0, 3.0)
    assert outcome.sides == (4.0, 2.0)
    shifted = Outcome(_figure(), (Sample.ratio(1, 4), Sample.ratio(2, 1), Sample.ratio(8, 2)))
    assert shifted.median == 2.0
    assert shifted.sides == (2, 2)


def test_the_median_of_an_even_number_lies_between():
    assert _outcome(1.0, 2.0, 4.0, 9.0).median == 3.0


@pytest.mark.parametrize(
    ("sense", "value", "met"),
    [
        ("<=", 2.0, True),
        ("<=", 2.001, False),
        (">=", 2.0, True),
        (">=", 1.999, False),
    ],
)
def test_a_target_is_met_up_to_and_at_its_limit(sense, value, met):
    assert _outcome(value, sense=sense).met is met


def test_one_bad_round_does_not_decide():
    assert _outcome(1.0, 1.0, 50.0).met
    assert not _outcome(1.0, 3.0, 3.0).met


def test_rounds_are_the_figures_own_unless_asked():
    figure = _figure(values=tuple(Sample(float(n)) for n in range(1, 6)))
    assert [sample.value for sample in measured(figure).samples] == [1.0, 2.0, 3.0]
    assert [sample.value for sample in measured(figure, 1).samples] == [1.0]


def test_a_figure_without_samples_is_an_error():
    with pytest.raises(ValueError, match="speed"):
        measured(_figure())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4123, "0.412"), (3.068, "3.07"), (51.44, "51.4"), (1240.2, "1240"), (0.0, "0.000")],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_row_says_figure_target_result_and_command():
    outcome = Outcome(_figure(), (Sample.ratio(3.0, 1.0), Sample.ratio(5.0, 1.0)))
    assert row(outcome) == (
        "ours, by theirs",
        "<= 2x",
        "4.00x",
        "3.00..5.00 of 2",
        "4.00 / 1.00 ms",
        "NOT MET",
        "python -m bench speed",
    )
    assert row(_outcome(1.0))[4:6] == ("", "met")


def test_columns_are_aligned():
    lines = table([_outcome(1.0), _outcome(100.0)]).splitlines()
    assert len(lines) == 4
    assert len({line.index("python -m bench") for line in lines[2:]}) == 1
    assert len({line.index("<= 2x") for line in lines[2:]}) == 1


def test_json_has_every_sample():
    outcome = Outcome(_figure(), (Sample.ratio(3.0, 2.0), Sample(1.0)))
    fields = json.loads(json.dumps(plain(outcome)))
    assert fields["samples"] == [[1.5, 3.0, 2.0], [1.0, None, None]]
    assert fields["median"] == 1.25
    assert fields["met"] is True
    assert fields["target"] == "<= 2"


def test_gaps_are_between_images_and_leave_out_what_came_before(tmp_path):
    stamps = tmp_path / "stamps"
    stamps.write_text("+ 1.0\n- 2.0\n+ 10.0\n- 11.0\n+ 11.5\n- 12.0\n+ 12.25\n- 13.0\n")
    assert gaps_s(stamps, 3) == [0.5, 0.25]


def test_gaps_of_an_unfinished_image_are_an_error(tmp_path):
    stamps = tmp_path / "stamps"
    stamps.write_text("+ 1.0\n- 2.0\n+ 3.0\n")
    with pytest.raises(AssertionError, match="did not end"):
        gaps_s(stamps, 2)


def test_every_figure_of_the_issue_is_there():
    limits = {name: (figure.sense, figure.limit) for name, figure in bench.FIGURES.items()}
    assert limits == {
        "gap": ("<=", 5.0),
        "gap-scripted": ("<=", 5.0),
        "rate": (">=", 0.95),
        "calls": ("<=", 1.0),
        "calls-quick": ("<=", 1.0),
        "memory-manager": ("<=", 60.0),
        "memory-worker": ("<=", 60.0),
        "cpu-1000": ("<=", 4.0),
        "cpu-100": ("<=", 4.0),
        "cpu-16": ("<=", 4.0),
        "latency": ("<=", 2.0),
        "latency-verified": ("<=", 2.0),
        "slow-link": ("<=", 2.0),
        "help": ("<=", 2.0),
        "durable-1k": (">=", 0.4),
        "durable-1m": (">=", 0.7),
        "durable-cpu-1k": ("<=", 4.0),
        "durable-cpu-1m": ("<=", 4.0),
        "durable-memory": ("<=", 2.0),
        "durable-memory-1": ("<=", 2.0),
        "durable-start": ("<=", 10.0),
        "dispatch-waiting": ("<=", 1.5),
        "dispatch-waiting-p99": ("<=", 1.5),
        "dispatch-workers": ("<=", 4.0),
        "dispatch-workers-p99": ("<=", 4.0),
    }


def test_a_group_stands_for_its_figures():
    words = ["help", "durable"]
    names = bench._arguments(words).names
    assert names[0] == "help"
    assert len(names) == 8
    assert all(name in bench.FIGURES for name in names)


@pytest.mark.parametrize("words", [["nonsense"], ["help", "--rounds", "0"]])
def test_a_wrong_command_line_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(words)
    assert stopped.value.code == 2
    assert "bench: error: " in capsys.readouterr().err


@pytest.mark.process
def test_figures_are_measured_and_written_down(tmp_path: Path, capsys):
    file = tmp_path / "figures.json"
    bench.main(["help", "latency", "--rounds", "1", "--json", str(file)])
    start, latency = json.loads(file.read_text(encoding="utf-8"))
    assert start["name"] == "help"
    assert latency["name"] == "latency"
    for fields in (start, latency):
        ((ratio, ours, theirs),) = fields["samples"]
        assert ratio == pytest.approx(ours / theirs)
        assert min(ours, theirs) > 0
    assert "python -m bench latency" in capsys.readouterr().out
