"""Backbones against the features that their own library computes."""

import pickle

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from d2detr.checkpoint import load_weights
from d2detr.checkpoint.adapting import place_backbone
from d2detr.checkpoint.imagenet import from_torchvision
from tests.checkpoint.helpers import load, padded_batch, randomize, small_detr


@pytest.fixture(scope="module")
def trained():
    model = resnet18(weights=None).eval()
    randomize(model, seed=4)
    return model


@torch.no_grad()
def torchvision_features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
    return x


def assert_loads_the_backbone_alone(path, expected):
    model = small_detr()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    report = load_weights(model, str(path))
    x = padded_batch(model).tensor
    with torch.no_grad():
        features = model.backbone(x)["res5"]
    torch.testing.assert_close(features, expected(x), atol=1e-3, rtol=1e-3)
    assert features.std() > 0.01
    for key, value in model.state_dict().items():
        assert key.startswith("backbone.") or torch.equal(value, before[key]), key
    assert "as the weights are of a backbone alone" in str(report)


def test_torchvision_resnet(trained, tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(trained.state_dict(), path)
    assert_loads_the_backbone_alone(path, lambda x: torchvision_features(trained, x))


def test_timm_resnet(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    save_file = pytest.importorskip("safetensors.torch").save_file
    trained = timm.create_model("resnet18").eval()
    randomize(trained, seed=5)
    path = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), path)
    with torch.no_grad():
        assert_loads_the_backbone_alone(path, trained.forward_features)


def test_detectron2_pickle(trained, tmp_path):
    detectron2 = small_detr()
    load(detectron2, trained.state_dict())
    backbone = detectron2.backbone.state_dict()
    weights = {key: x.numpy() for key, x in backbone.items()}
    weights["stem.fc.weight"] = np.zeros((3, 3), np.float32)
    path = tmp_path / "R-18.pkl"
    content = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert_loads_the_backbone_alone(path, lambda x: torchvision_features(trained, x))


def test_backbone_goes_below_a_feature_pyramid(trained):
    own = {"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}
    adapted = place_backbone(from_torchvision(trained.state_dict()), own)
    assert torch.equal(adapted["backbone.bottom_up.stem.conv1.weight"], trained.conv1.weight)
