import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from detectron2.structures import Boxes, BoxMode, Instances

from d2detr.config import load_config
from d2detr.doctor import check_datasets
from d2detr.engine import Trainer
from d2detr.evaluation import build_evaluator
from d2detr.model_zoo import get_config_file
from tests.dataset_trees import two_splits, voc

# VOC names for the five shapes.
NAMES = {1: "aeroplane", 2: "bicycle", 3: "bird", 4: "boat", 5: "bottle"}


@pytest.fixture
def voc_2012(tmp_path):
    """A small VOC 2012, registered as Detectron2 registers the large one."""
    splits = two_splits()
    for content, _ in splits.values():
        content["categories"] = [{"id": k, "name": v} for k, v in NAMES.items()]
    voc(tmp_path / "VOC2012", splits)
    names = [f"voc_2012_{split}" for split in splits]
    originals = {name: (DatasetCatalog.pop(name), MetadataCatalog.pop(name)) for name in names}
    for split, name in zip(splits, names, strict=True):
        register_pascal_voc(name, str(tmp_path / "VOC2012"), split, 2012)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    yield splits
    for name, (loader, metadata) in originals.items():
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        DatasetCatalog.register(name, loader)
        MetadataCatalog.get(name).set(**metadata.as_dict())


@pytest.fixture
def voc_cfg(tmp_path):
    cfg = load_config(get_config_file("detr_r50_voc.yaml"))
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


def perfect_outputs(name, only_class=None):
    for record in DatasetCatalog.get(name):
        items = [x for x in record["annotations"] if only_class in (None, x["category_id"])]
        instances = Instances((record["height"], record["width"]))
        boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in items]
        instances.pred_boxes = Boxes(torch.tensor(boxes).reshape(-1, 4))
        instances.pred_classes = torch.tensor([x["category_id"] for x in items], dtype=torch.int64)
        instances.scores = torch.linspace(0.9, 0.5, len(items))
        yield record, {"instances": instances}


def evaluate(cfg, only_class=None):
    evaluator = build_evaluator(cfg, "voc_2012_val")
    evaluator.reset()
    for record, output in perfect_outputs("voc_2012_val", only_class):
        evaluator.process([record], [output])
    return evaluator.evaluate()


def test_both_evaluators_agree_that_the_truth_is_perfect(voc_2012, voc_cfg):
    results = evaluate(voc_cfg)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["bbox"]["APs"] == pytest.approx(100)
    present = {x["category_id"] for x in voc_2012["val"][0]["annotations"]}
    # Pascal VOC averages over its 20 classes, present or not.
    assert results["voc"]["AP50"] == pytest.approx(100 * len(present) / 20)


def test_missing_a_class_costs_its_share(voc_2012, voc_cfg):
    present = sorted({x["category_id"] for x in voc_2012["val"][0]["annotations"]})
    results = evaluate(voc_cfg, only_class=present[0] - 1)
    assert results["bbox"]["AP"] == pytest.approx(100 / len(present))
    assert results["voc"]["AP"] == pytest.approx(100 / 20)
    assert np.isnan(results["bbox"]["APl"])


def test_config_trains_and_evaluates(voc_2012, voc_cfg, tiny_cfg):
    check_datasets(voc_cfg)
    tiny_cfg.DATASETS = voc_cfg.DATASETS
    tiny_cfg.MODEL.DETR.NUM_CLASSES = voc_cfg.MODEL.DETR.NUM_CLASSES
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.STEPS, tiny_cfg.VIS_PERIOD = 2, (), 0
    tiny_cfg.SOLVER.IMS_PER_BATCH = 2
    results = Trainer(tiny_cfg).train()
    assert set(results) == {"bbox", "voc"}
    assert "APs" in results["bbox"]


def test_schedule_is_40_epochs(voc_cfg):
    solver = voc_cfg.SOLVER
    assert pytest.approx(40, abs=0.01) == solver.MAX_ITER * solver.IMS_PER_BATCH / 5717
    assert solver.STEPS[0] / solver.MAX_ITER == pytest.approx(0.75, abs=0.001)
