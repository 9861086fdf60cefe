import pytest

from d2detr.errors import UserError
from d2detr.measure import Workload, run_benchmark
from d2detr.model_zoo import get_config_file


def measure(config, batch, dataset, **kwargs):
    opts = ("MODEL.DEVICE", "cpu")
    workload = Workload(get_config_file(config), opts=opts, batch=batch, dataset=dataset)
    return run_benchmark("evaluate", workload, rounds=1, warmup=0, **kwargs)


@pytest.mark.parametrize("config", ["quickstart.yaml", "quickstart_panoptic.yaml"])
def test_results_are_those_of_pycocotools(config, few_shapes):
    report = measure(config, 7, few_shapes, compare="pycocotools")
    ours, theirs = (x["first_result"] for x in report["contenders"].values())
    assert 1 < ours < 99
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_more_images_than_the_dataset_has(few_shapes):
    with pytest.raises(UserError, match="--batch 13: the dataset has 12 images"):
        measure("quickstart.yaml", 13, few_shapes)
