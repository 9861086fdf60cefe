import json
from concurrent.futures.process import BrokenProcessPool
from itertools import product

import pytest

from d2detr.errors import UserError
from d2detr.measure import Workload, format_report, run_benchmark
from d2detr.measure.timing import measure_memory
from d2detr.model_zoo import get_config_file

SMALL = ("MODEL.DEVICE", "cpu", "MODEL.DETR.DROPOUT", "0.0")


@pytest.fixture(autouse=True)
def transformers():
    pytest.importorskip("timm")
    return pytest.importorskip("transformers", minversion="5.0")


@pytest.mark.parametrize(
    ("config", "task"),
    [
        *product(("detr_r50.yaml", "detr_panoptic_r50.yaml"), ("train", "eval", "postprocess")),
        ("detr_r50.yaml", "criterion"),
        ("dab_detr_r50.yaml", "criterion"),
    ],
)
def test_contenders_get_the_same_result(config, task):
    options = (*SMALL, "MODEL.DETR.FROZEN_WEIGHTS", "", "MODEL.DETR.FREEZE_BOX_MODEL", "False")
    workload = Workload(get_config_file(config), opts=options, batch=2, size=(64, 96))
    report = run_benchmark(
        task, workload, compare="huggingface", rounds=1, warmup=0, with_memory=False
    )
    ours, peer = (report["contenders"][x] for x in ("d2detr", "huggingface"))
    assert ours["first_result"] == pytest.approx(peer["first_result"], rel=1e-4)


@pytest.mark.parametrize("task", ["deformable_attention", "deformable_self_attention"])
def test_deformable_attention_has_the_same_result(task):
    workload = Workload(get_config_file("detr_r50.yaml"), opts=SMALL, batch=2, size=(128, 160))
    report = run_benchmark(
        task, workload, compare="huggingface", rounds=1, warmup=0, with_memory=False
    )
    ours, peer = (report["contenders"][x] for x in ("d2detr", "huggingface"))
    assert ours["first_result"] == pytest.approx(peer["first_result"], rel=1e-3)


def test_reports_speed_and_memory():
    workload = Workload(get_config_file("detr_r50.yaml"), opts=SMALL, batch=2)
    report = run_benchmark("criterion", workload, compare="huggingface", rounds=1, warmup=0)
    ours, peer = (report["contenders"][x] for x in ("d2detr", "huggingface"))
    for x in (ours, peer):
        assert 0 < x["memory_mib"]["before"] <= x["memory_mib"]["peak"]
        assert x["images_per_second"] == pytest.approx(2 / x["seconds"]["median"])
    assert report["speed_ratio"]["median"] == pytest.approx(
        peer["seconds"]["median"] / ours["seconds"]["median"]
    )
    assert json.loads(json.dumps(report)) == report
    assert "times as fast" in format_report(report)


def test_losses_of_other_weights_are_not_compared():
    workload = Workload(get_config_file("conditional_detr_r50.yaml"), opts=SMALL)
    with pytest.raises(UserError, match="CLASS_WEIGHT is 2.0.*Add MODEL.DETR.CLASS_WEIGHT 1.0"):
        run_benchmark("criterion", workload, compare="huggingface")


class Unpicklable(Exception):
    def __init__(self, field: str, cause: str):
        super().__init__(f"{field}: {cause}")


def fail():
    raise Unpicklable("field", "cause")


def test_a_contender_that_fails_ends_the_measurement_of_memory():
    with pytest.raises(BrokenProcessPool):
        measure_memory(fail)
