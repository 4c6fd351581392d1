"""What the scheduler keeps or skips to be quick is what it would find the long way."""

from bench.dispatch_figures import Farm, Shape
from sdistrib_manager.scheduler.outlook import Outlooks


def _busy(choices: int) -> Farm:
    farm = Farm(Shape(12, 400))
    farm.start()
    for _ in range(choices):
        farm.choose()
    return farm


def test_heads_that_were_kept_are_those_that_are_found_anew():
    farm = _busy(0)
    lines = farm._scheduler.lines
    for _ in range(150):
        farm.choose()
        kept = lines.heads()
        found = [(*head, line) for line in lines._lines.values() if (head := line.head())]
        assert kept == sorted(found, key=lambda one: one[0])


def test_the_box_that_is_first_is_found_without_looking_at_all():
    farm = _busy(200)
    costs, boxes = farm._scheduler.costs, farm._boxes
    outlooks = Outlooks(boxes, farm._now, costs, copy_cost=1.0)
    for among in (outlooks.by_readiness(), outlooks.by_readiness()[3:8], []):
        for _, job, _ in farm._scheduler.lines.heads():
            able = [one for one in among if boxes[one[1]].able(job)]
            first = min(
                able, key=lambda one: (outlooks.reckoned(boxes[one[1]], job), one[1]), default=None
            )
            assert outlooks.first(job, type(boxes[0]).able, among) == first


def test_no_load_is_expected_to_be_quicker_than_the_least():
    farm = _busy(200)
    costs = farm._scheduler.costs
    heads = farm._scheduler.lines.heads()
    loads = [costs.load_s(box.name, job) for box in farm._boxes for _, job, _ in heads]
    assert min(loads) >= costs.least_load_s
