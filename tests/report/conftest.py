import json
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator

DETECTIONS = [
    # Of the objects of tiny_coco: one found, one of the wrong class, one missed.
    {"image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 12], "score": 0.9},
    {"image_id": 1, "category_id": 1, "bbox": [20, 5, 8, 9], "score": 0.8},
    {"image_id": 1, "category_id": 2, "bbox": [0, 20, 4, 4], "score": 0.3},
]
HOSTILE_NAME = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def make_run(tmp_path, tiny_cfg):
    """Writes the folder of a run that was evaluated on a dataset."""

    def make(dataset_name, detections=DETECTIONS, name="run"):
        folder = tmp_path / name
        (folder / "inference").mkdir(parents=True)
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = (dataset_name,), (dataset_name,)
        (folder / "config.yaml").write_text(tiny_cfg.dump())
        values = {"total_loss": 9.0, "lr": 1e-4, "time": 0.5, "bbox/AP": 20.0}
        lines = [{"iteration": 19, **values}, {"iteration": 39, **values, "total_loss": math.nan}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.json").write_text(text + '{"iteration": 59, "total_l')
        (folder / "log.txt").write_text(f"Environment:\n{'-' * 9}\nPython  3\n{'-' * 9}\n")
        if detections is not None:
            results = folder / "inference" / "coco_instances_results.json"
            results.write_text(json.dumps(detections))
        return folder

    return make


@pytest.fixture
def hostile_run(tiny_coco, make_run):
    """A run whose first class has a name that would run code if it were not escaped."""

    def edit(content):
        content["categories"][0]["name"] = HOSTILE_NAME

    tiny_coco(edit)
    return make_run("tiny")


@pytest.fixture
def few_shapes_results(tmp_path, forget_datasets):
    """A dataset, a folder with detections of it, and Detectron2's evaluation of them."""
    register_shapes_split("reported", tmp_path / "shapes", ShapesSplit(num_images=12, size=64))
    records = load_dataset("reported")
    evaluator = FastCOCOEvaluator("reported", output_dir=str(tmp_path / "run" / "inference"))
    evaluator.reset()
    generator = torch.Generator().manual_seed(0)
    for record in records:
        boxes = torch.tensor([x["bbox"] for x in record["annotations"]], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        output = Instances((record["height"], record["width"]))
        output.pred_boxes = Boxes(boxes + 3 * torch.rand(boxes.shape, generator=generator))
        output.pred_classes = torch.tensor([x["category_id"] for x in record["annotations"]])
        output.scores = torch.rand(len(boxes), generator=generator)
        evaluator.process([record], [{"instances": output}])
    return "reported", tmp_path / "run", evaluator.evaluate()["bbox"]
