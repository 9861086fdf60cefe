import json

import pytest
import torch

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.errors import UserError
from d2detr.measure.learning import Contender, Point, plan_trainings, take_turns
from d2detr.measure.learning_report import (
    build_report,
    draw_learning,
    format_learning,
    seconds_to,
)
from d2detr.model_zoo import get_config_file

SMALL_DETR = ("MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.DIM_FEEDFORWARD", "64")


@pytest.fixture
def opts(tmp_path, forget_datasets):
    register_shapes_split("few_shapes", tmp_path / "shapes", ShapesSplit(num_images=4, size=64))
    data = ["DATASETS.TRAIN", "('few_shapes',)", "DATASETS.TEST", "('few_shapes',)"]
    return [*data, "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TRAIN", "(64,)"]


def contender(name, *opts, config="quickstart.yaml"):
    return Contender(name, get_config_file(config), opts)


def last(turns):
    *_, curves = turns
    return curves


def test_trains_detr_and_other_models_for_the_same_seconds(opts, tmp_path):
    contenders = [
        contender("detr", *SMALL_DETR),
        contender("retinanet", config="learning/retinanet.yaml"),
        contender("faster_rcnn", config="learning/faster_rcnn.yaml"),
    ]
    planned = plan_trainings(contenders, [1, 2], tmp_path / "output", opts)
    curves = last(take_turns(planned, seconds=0.2, slice_seconds=0.1))
    assert list(curves) == [(x.name, seed) for x in contenders for seed in (1, 2)]
    for curve in curves.values():
        assert curve[-1].seconds >= 0.2
        assert 1 <= curve[0].iteration <= curve[-1].iteration
        # A slice ends with the iteration that is under way.
        assert all(0 <= point.ap <= point.ap50 for point in curve)

    report = build_report(planned, curves, seconds=0.2, targets=[50])
    assert json.loads(json.dumps(report)) == report
    assert {x["name"] for x in report["trainings"]} == {"detr", "retinanet", "faster_rcnn"}
    assert "retinanet" in format_learning(report)
    draw_learning(report, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 0


def test_trainings_take_turns_and_are_resumed_where_they_stopped(opts, tmp_path):
    contenders = [contender("a", *SMALL_DETR), contender("b", *SMALL_DETR)]
    planned = plan_trainings(contenders, [1], tmp_path / "output", opts)
    settings = {"seconds": 1e6, "slice_seconds": 1e-9}  # slices of one iteration
    turns = take_turns(planned, **settings)
    progress = [[len(curve) for curve in next(turns).values()] for _ in range(2)]
    assert progress == [[1, 0], [1, 1]]
    turns.close()  # as if it were killed
    resumed = next(take_turns(planned, resume=True, **settings))
    assert sorted(len(curve) for curve in resumed.values()) == [1, 2]
    assert max(curve[-1].iteration for curve in resumed.values()) == 2
    with pytest.raises(UserError, match="holds another run"):
        next(take_turns(planned, **settings))
    with pytest.raises(UserError, match="other seconds or another config"):
        next(take_turns(planned, seconds=5.0, slice_seconds=1e-9, resume=True))


def test_schedule_is_stretched_over_the_seconds(opts, tmp_path, monkeypatch):
    clock = iter(range(1000))  # an iteration reads it twice, and so takes a second
    monkeypatch.setattr("d2detr.measure.learning.time.process_time", lambda: next(clock))
    schedule = ["SOLVER.STEPS", "(500,)", "SOLVER.MAX_ITER", "1000", "SOLVER.WARMUP_ITERS", "0"]
    rates = []
    monkeypatch.setattr(
        "d2detr.measure.learning.TimedTrainer.run_step",
        lambda self: rates.append(self.optimizer.param_groups[-1]["lr"]),
    )
    planned = plan_trainings(
        [contender("a", *SMALL_DETR)], [1], tmp_path / "output", opts + schedule
    )
    last(take_turns(planned, seconds=4, slice_seconds=4))
    assert torch.tensor(rates) / rates[0] == pytest.approx([1, 1, 0.1, 0.1])


def test_diverged_training_ends_and_the_others_go_on(opts, tmp_path):
    contenders = [
        contender("a", *SMALL_DETR, "SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0"),
        contender("b", *SMALL_DETR),
    ]
    planned = plan_trainings(contenders, [1], tmp_path / "output", opts)
    curves = last(take_turns(planned, seconds=0.5, slice_seconds=0.5))
    assert curves["a", 1][-1].ap == 0
    assert curves["b", 1][-1].seconds >= 0.5


def test_time_to_an_ap_is_between_two_evaluations():
    curve = [Point(10, 1, 0.0, 0.0), Point(20, 2, 40.0, 50.0), Point(30, 3, 30.0, 40.0)]
    assert seconds_to(curve, 10) == 12.5
    assert seconds_to(curve, 40) == 20
    assert seconds_to(curve, 41) is None


def test_report_tells_spread_and_different_inputs(opts, tmp_path):
    contenders = [contender("a"), contender("b", "INPUT.RANDOM_FLIP", "none")]
    planned = plan_trainings(contenders, [1, 2], tmp_path, opts)
    curves = {
        ("a", 1): [Point(6, 5, 60.0, 70.0)],
        ("a", 2): [Point(6, 7, 30.0, 70.0)],
        ("b", 1): [Point(6, 5, 55.0, 70.0)],
        ("b", 2): [],
    }
    report = build_report(planned, curves, seconds=6, targets=[50])
    assert report["seconds_to"]["50"] == {"a": [5.0, None], "b": [pytest.approx(60 / 11), None]}
    text = format_learning(report)
    assert "45.0 (30.0 to 60.0)" in text
    assert "5.0 (5.0 to 5.0), 1 of 2" in text
    assert "INPUT.RANDOM_FLIP is none for b, but horizontal for a." in text


@pytest.mark.parametrize(
    ("contenders", "message"),
    [
        ([contender("a"), contender("a")], "different names"),
        ([contender("a"), contender("b", "DATASETS.TEST", "('few_shapes',)")], "the same DATASETS"),
        ([contender("a", "DATASETS.TEST", "()")], "one and the same dataset"),
    ],
)
def test_what_cannot_be_compared_is_an_error(contenders, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan_trainings(contenders, [1], tmp_path)
