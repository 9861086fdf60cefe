"""int8 is written where AP allows it, and measured on the dataset that it is for."""

import pytest
import torch
from detectron2.modeling import build_model

from d2detr.datasets import ShapesSplit
from d2detr.datasets.shapes_dataset import ensure_shapes_files
from d2detr.errors import UserError
from d2detr.export import ExportedModel, quantization
from d2detr.export.exporting import export_model
from d2detr.predict import Predictor


@pytest.fixture
def exported(tiny_cfg, tmp_path, forget_datasets):
    from detectron2.data.datasets import register_coco_instances  # after d2detr has repaired it

    folder = tmp_path / "shapes"
    ensure_shapes_files(folder, ShapesSplit(num_images=3, size=96))
    register_coco_instances("few", {}, str(folder / "instances.json"), str(folder / "images"))
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ("few",)
    tiny_cfg.MODEL.DETR.ENC_LAYERS = tiny_cfg.MODEL.DETR.DEC_LAYERS = 1
    torch.manual_seed(0)
    torch.save({"model": build_model(tiny_cfg).state_dict()}, tmp_path / "w.pth")
    predictor = Predictor(tiny_cfg, str(tmp_path / "w.pth"), score_threshold=0)
    return export_model(predictor, tmp_path / "out")


def test_int8_replaces_the_file_where_ap_stays(exported):
    size = exported.stat().st_size
    accuracy = quantization.quantize(exported, "few", num_calibration=2)
    assert accuracy.chosen == "all" and abs(accuracy.after["all"] - accuracy.before) <= 1
    assert f"AP {accuracy.before:.1f} in fp32" in str(accuracy)
    assert exported.stat().st_size < size
    model = ExportedModel(exported)
    assert model.facts["precision"] == "int8" and len(model.facts["classes"]) == 5


def test_the_file_stays_where_every_part_costs_ap(exported, monkeypatch):
    before = exported.read_bytes()
    values = iter([50.0, 48.0, 48.9])
    monkeypatch.setattr(quantization, "average_precision", lambda *args: next(values))
    with pytest.raises(UserError, match="48.0 with all in int8, 48.9 with backbone in int8"):
        quantization.quantize(exported, "few", num_calibration=1)
    assert exported.read_bytes() == before
    assert [path.name for path in exported.parent.iterdir()].count("model.onnx") == 1
    assert not list(exported.parent.glob(".*"))
