import copy

import pytest
import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

from d2detr.layers import fold_frozen_norms, fuse_bottlenecks
from d2detr.layers.fused_bottleneck import FusedBottleneck


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


@pytest.mark.parametrize("frozen", [(), ("res2",)])
def test_gradients_are_the_same(backbones, frozen):
    x = torch.randn(1, 16, 8, 8)
    gradients = []
    for backbone in backbones:
        for name in frozen:
            backbone.get_submodule(name).requires_grad_(False)
        backbone.train()(x.clone())["res3"].sum().backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*gradients)


def test_autocast_is_left_alone(backbones):
    x = torch.randn(1, 16, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, fused = (backbone(x)["res3"] for backbone in backbones)
    assert plain.dtype == torch.bfloat16
    assert torch.equal(plain, fused)
