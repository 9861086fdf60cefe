"""The panoptic network against an independent implementation (see tests/reference/peer.py)."""

import importlib.util
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from d2detr.checkpoint import from_original
from d2detr.model_zoo import get_config
from tests.reference.peer import QUERIES, build_peer, gradient_loss, peer_inputs
from tests.reference.weights import reference_state_dict

DIRECTORY = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def reference():
    return torch.load(DIRECTORY / "detr_r50.pt", weights_only=True)


@pytest.fixture(scope="module")
def expected():
    return torch.load(DIRECTORY / "detr_r50_masks.pt", weights_only=True)


@pytest.fixture(scope="module")
def state_dict():
    return reference_state_dict(masks=True)


@pytest.fixture(scope="module")
def model(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "panoptic.pth"
    torch.save({"model": state_dict}, path)
    cfg = get_config("detr_panoptic_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 91
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(path))
    return model.eval()


def predict(model, reference, queries=QUERIES):
    """Mask logits (B, queries, h, w)."""
    inputs = [{"image": x.permute(2, 0, 1)} for x in reference["images"]]
    encoded = model.encode(model.preprocess_image(inputs))
    hs = encoded.decoded.hs[-1]
    mask_inputs = model.mask_head.prepare(hs, encoded.memory, encoded.src, encoded.features)
    image = torch.arange(len(inputs)).repeat_interleave(len(queries))
    masks = model.mask_head(mask_inputs, image, torch.tensor(queries).repeat(len(inputs)))
    return masks.unflatten(0, (len(inputs), -1))


def test_mask_logits(model, reference, expected):
    with torch.no_grad():
        masks = predict(model, reference)
    torch.testing.assert_close(masks, expected["pred_masks"], atol=5e-5, rtol=0)


def test_gradients_of_some_queries_are_those_of_a_pass_with_all(model, reference, expected):
    model.requires_grad_(True).zero_grad()
    gradient_loss(predict(model, reference)).backward()
    parameters = dict(model.named_parameters())
    for name, norm in expected["grad_norm"].items():
        own_name = next(iter(from_original({name: None})))
        assert parameters[own_name].grad.norm().item() == pytest.approx(norm, rel=2e-3), name


@pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
def test_all_queries_against_transformers(model, reference, state_dict):
    with torch.no_grad():
        masks = predict(model, reference, range(100))
        peer = build_peer(state_dict)(*peer_inputs(reference)).pred_masks
    torch.testing.assert_close(masks, peer, atol=5e-5, rtol=0)
