"""What steps do is counted and compared with ``expected_counts.json``.

After a change that is meant to do more or less, write the file anew and say why in the commit:
python -m tests.benchmark.test_counts
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from d2detr.measure import TASKS, Workload
from d2detr.measure.step_counts import Counts, count
from d2detr.model_zoo import get_config_file

FILE = Path(__file__).with_name("expected_counts.json")
SIZE = (96, 128)
WORKLOADS = {
    "train": ("train", "detr_r50.yaml", {"batch": 2, "size": SIZE}),
    "train_masks": ("train", "detr_panoptic_r50.yaml", {"batch": 2, "size": SIZE}),
    "eval": ("eval", "detr_r50.yaml", {"size": SIZE}),
    "criterion": ("criterion", "detr_r50.yaml", {"batch": 16}),
    "postprocess": ("postprocess", "detr_r50.yaml", {"batch": 8}),
    "postprocess_masks": ("postprocess", "detr_panoptic_r50.yaml", {"size": SIZE}),
}


def count_task(name: str) -> Counts:
    task, config, settings = WORKLOADS[name]
    options = ("MODEL.DEVICE", "cpu", "MODEL.DETR.FROZEN_WEIGHTS", "")
    step = TASKS[task].ours(Workload(get_config_file(config), opts=options, **settings))
    step()  # the first makes the optimizer's state and fills caches
    return count(step)


@pytest.mark.parametrize("name", WORKLOADS)
def test_does_no_more_than_expected(name):
    expected = json.loads(FILE.read_text())
    if not torch.__version__.startswith(expected["torch"]):
        pytest.skip(f"counted with torch {expected['torch']}")
    counted = asdict(count_task(name))
    for key, value in counted.items():
        assert value == pytest.approx(expected[name][key], rel=0.02), f"{key}: see {__file__}"


def test_counts_forward_and_backward():
    x = torch.ones(256, 1024, requires_grad=True)

    def step():
        y = (x * 2).t()[:3]  # 1 MiB; the rest is views
        assert y.sum() > 0  # one sum, one comparison, one read
        y.sum().backward()

    counts = count(step)
    assert counts.reads == 1
    assert 5 < counts.operators < 12
    assert 3 < counts.allocated_mib < 4.1  # x * 2, and gradients of y, its base and x


def main() -> None:
    counts = {name: asdict(count_task(name)) for name in WORKLOADS}
    version = ".".join(torch.__version__.split(".")[:2])
    FILE.write_text(json.dumps({"torch": version, **counts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
