import pytest
import torch
import torch.nn.functional as F
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from d2detr import model_zoo
from d2detr.checkpoint import from_original
from d2detr.modeling.backbone import build_detr_backbone, feature_padding_mask


@pytest.mark.parametrize("feature_size", [(7, 8), (25, 32), (3, 5)])
def test_padding_mask_is_the_nearest_sample_of_the_pixel_mask(feature_size):
    generator = torch.Generator().manual_seed(0)
    sizes = [
        (int(h), int(w)) for h, w in torch.randint(1, 200, (16, 2), generator=generator).tolist()
    ]
    padded = torch.zeros(16, 1, max(h for h, _ in sizes), max(w for _, w in sizes))
    pixel_mask = torch.ones(16, *padded.shape[2:])
    for mask, (height, width) in zip(pixel_mask, sizes, strict=True):
        mask[:height, :width] = 0
    expected = F.interpolate(pixel_mask[None], size=feature_size)[0].bool()
    actual = feature_padding_mask(sizes, padded, torch.zeros(16, 1, *feature_size))
    assert torch.equal(actual, expected)


def test_dc5_doubles_the_resolution_and_dilates_all_but_the_first_convolution():
    cfg = model_zoo.get_config("detr_r50_dc5.yaml")
    backbone = build_detr_backbone(cfg)
    feature = backbone(torch.zeros(1, 3, 64, 96))["res5"]
    assert feature.shape[2:] == (4, 6)
    assert [block.conv2.dilation[0] for block in backbone.res5] == [1, 2, 2]


def test_dc5_equals_torchvision():
    """The released DC5 weights are torchvision's ``replace_stride_with_dilation``."""
    torch.manual_seed(0)
    peer = resnet50(
        replace_stride_with_dilation=[False, False, True], norm_layer=FrozenBatchNorm2d
    ).eval()
    original = {f"backbone.0.body.{key}": value for key, value in peer.state_dict().items()}
    weights = {
        key.removeprefix("backbone."): value for key, value in from_original(original).items()
    }
    backbone = build_detr_backbone(model_zoo.get_config("detr_r50_dc5.yaml")).eval()
    unused = backbone.load_state_dict(weights, strict=False).unexpected_keys
    assert {key.split(".")[0] for key in unused} == {"fc"}

    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = IntermediateLayerGetter(peer, {"layer4": "res5"})(images)["res5"]
        torch.testing.assert_close(backbone(images)["res5"], expected)
