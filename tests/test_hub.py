"""torch.hub's entry points, from this checkout."""

import inspect
import runpy
from pathlib import Path

import pytest
import torch

import d2detr
from d2detr import model_zoo
from d2detr.checkpoint.releases import DetrReleaseHandler
from d2detr.errors import UserError
from tests.reference.weights import reference_state_dict

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    path = tmp_path_factory.mktemp("release") / "weights.pth"
    torch.save({"model": reference_state_dict()}, path)
    return str(path)


@pytest.fixture
def released(release, monkeypatch):
    """Weights in the place of what ``detr://`` downloads."""
    monkeypatch.setattr(DetrReleaseHandler, "_get_local_path", lambda self, path, **_: release)


def load(name, **arguments):
    return torch.hub.load(str(ROOT), name, source="local", **arguments)


def test_every_config_and_every_model_of_the_original_is_an_entry():
    hubconf = runpy.run_path(str(ROOT / "hubconf.py"))
    for name in (*model_zoo.names(), "detr_resnet50", "detr_resnet101_panoptic"):
        assert "pretrained" in inspect.signature(hubconf[name]).parameters


def test_entries_of_the_original_give_its_outputs(released):
    reference = torch.load(ROOT / "tests" / "reference" / "detr_r50.pt", weights_only=True)
    model, postprocess = load("detr_resnet50", pretrained=True, return_postprocessor=True)
    mean, std = model.detr.pixel_mean, model.detr.pixel_std
    images = [(image.permute(2, 0, 1) - mean) / std for image in reference["images"]]
    with torch.no_grad():
        outputs = model.eval()(images)
    torch.testing.assert_close(outputs["pred_logits"], reference["pred_logits"], atol=2e-3, rtol=0)
    torch.testing.assert_close(outputs["pred_boxes"], reference["pred_boxes"], atol=1e-4, rtol=0)
    sizes = reference["orig_sizes"]
    for found, expected in zip(
        postprocess(outputs, torch.tensor(sizes)), reference["detections"], strict=True
    ):
        torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-4, rtol=0)
        assert torch.equal(found["labels"], expected["labels"])


def test_own_entries_take_another_number_of_classes(released):
    model = load("detr_r50", pretrained=True, num_classes=20, device="cpu")
    assert model.heads.class_embed.out_features == 21
    trained = reference_state_dict()["query_embed.weight"]
    assert torch.equal(model.transformer.decoder.query_embed.weight, trained)


def test_a_predictor_needs_no_config_and_no_dataset(released, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predictor = d2detr.Predictor("detr://detr_r50", device="cpu")
    assert [x["name"] for x in predictor.categories][:2] == ["person", "bicycle"]
    assert len(predictor.metadata.thing_classes) == 80
    trained = reference_state_dict()["query_embed.weight"]
    assert torch.equal(predictor.model.transformer.decoder.query_embed.weight, trained)
    with pytest.raises(UserError, match="detr_r18"):
        d2detr.Predictor("detr://detr_r18")
