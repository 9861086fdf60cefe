import copy

import pytest
import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

from d2detr.layers.cpu.frozen_norm import fold_frozen_norms
from d2detr.layers.cpu.fused_bottleneck import FusedBottleneck, fuse_bottlenecks


class Stem(torch.nn.Identity):
    stride = 1
    out_channels = 16


@pytest.fixture
def backbones():
    """A ResNet whose first block has no shortcut, as it is and fused."""
    torch.manual_seed(0)
    stages = [
        [
            BottleneckBlock(c, out, stride=stride, bottleneck_channels=8, norm="FrozenBN")
            for c, out, stride in blocks
        ]
        for blocks in (((16, 16, 1), (16, 16, 1)), ((16, 32, 2), (32, 32, 1)))
    ]
    plain = ResNet(Stem(), stages, out_features=["stem", "res2", "res3"])
    for name, x in plain.named_buffers():
        if name.endswith(("weight", "running_var")):
            x.uniform_(0.5, 2)
    fold_frozen_norms(plain)
    fused = copy.deepcopy(plain)
    fuse_bottlenecks(fused)
    return plain.eval(), fused.eval()


def test_features_are_the_same_and_none_is_overwritten(backbones):
    plain, fused = backbones
    assert [isinstance(x, FusedBottleneck) for stage in fused.stages for x in stage] == [
        False,
        True,
        True,
        True,
    ]
    x = torch.randn(2, 16, 20, 24).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, features = plain(x.clone()), fused(x)
    for name in ("stem", "res2", "res3"):
        torch.testing.assert_close(features[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "learns", ["", "res3", "res2.1.conv1", "res2.1.conv2", "res2.1.conv3", "res3.0.shortcut"]
)
def test_gradients_are_the_same(backbones, learns):
    x = torch.randn(1, 16, 8, 8)
    gradients = []
    for backbone in backbones:
        backbone.requires_grad_(False).get_submodule(learns).requires_grad_(True)
        features = backbone.train()(x.clone())
        (features["res2"].sum() + features["res3"].sum()).backward()
        assert any(p.grad is not None for p in backbone.parameters())
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*gradients)


def test_hooks_of_the_last_convolution_are_called(backbones):
    called = []
    backbones[1].res3[0].conv3.register_forward_hook(lambda *args: called.append(args))
    with torch.no_grad():
        backbones[1](torch.randn(1, 16, 8, 8))
    assert called


def test_autocast_is_left_alone(backbones):
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, fused = (backbone(x)["res3"] for backbone in backbones)
    assert plain.dtype == torch.bfloat16
    assert torch.equal(plain, fused)
