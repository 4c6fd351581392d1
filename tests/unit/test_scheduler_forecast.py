"""A forecast reckons as the choice does."""

from sdistrib_manager.scheduler.forecast import Forecast
from sdistrib_manager.scheduler.outlook import Outlooks
from tests.support.boxes import FakeBox, Yard, job


def test_a_forecast_counts_copies_as_the_choice_does() -> None:
    # One box has the context, two have another, one has the last copy of a third, one has nothing.
    boxes = [FakeBox(name, context) for name, context in zip("12345", "ABBC-", strict=True)]
    boxes[4].context = None
    yard = Yard(*boxes)
    for box in boxes:
        yard.speed(box.name, 2.0, 7.0)
    wanted = job("a", context="A")
    forecast = Forecast(yard.costs, 1.0, yard.now, boxes, lambda *_: True)
    chosen = Outlooks(boxes, yard.now, yard.costs, 1.0)
    reckoned = [one.reckoned_at + one.image_s for one in forecast._filling(wanted)]
    assert reckoned == [chosen.reckoned(box, wanted) for box in boxes]
    load_s = yard.costs.load_s("2", wanted)
    assert [end - reckoned[0] for end in reckoned[1:]] == [
        2 * load_s, 2 * load_s, 3 * load_s, load_s,
    ]  # fmt: skip
