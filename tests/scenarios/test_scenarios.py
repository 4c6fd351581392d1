"""Each text beside this file is a story; `pytest --rewrite` writes what really happens into it."""

from pathlib import Path

import pytest

from tests.scenarios.player import play

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_written(story: Path, request: pytest.FixtureRequest):
    text = story.read_text(encoding="utf-8")
    happens = play(text)
    if request.config.getoption("--rewrite"):
        story.write_text(happens, encoding="utf-8")
        return
    assert text.startswith("# "), "a scenario begins with the story that it pins"
    assert happens == text, "review with: pytest --rewrite tests/scenarios && git diff"


def test_there_are_stories():
    assert len(STORIES) >= 8


def test_a_story_that_goes_otherwise_is_noticed():
    text = "# A client says hello.\n$ client ana\n  ana <- GOODBYE\n"
    assert play(text) == text.replace("GOODBYE", "WELCOME")
