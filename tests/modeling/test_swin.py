import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from d2detr.checkpoint import load_weights
from d2detr.config import load_config
from d2detr.errors import UserError
from d2detr.modeling import Swin


def test_features_are_torchvision_s_stages():
    torch.manual_seed(0)
    network = torchvision.models.swin_t(weights=None).eval()
    swin = Swin("swin_t", ("p1", "p3")).eval()
    swin.features.load_state_dict(network.features.state_dict())
    image = torch.randn(1, 3, 70, 101)
    features = swin(image)
    for name, parts in (("p1", 4), ("p3", 8)):
        expected = swin.norms[name](network.features[:parts](image)).permute(0, 3, 1, 2)
        torch.testing.assert_close(features[name], expected)
        shape = swin.output_shape()[name]
        assert features[name].shape[1] == shape.channels
        assert features[name].shape[2] == -(-70 // shape.stride)


def test_config_and_weights(tmp_path):
    cfg = load_config("dino_swin_t_4scale_12ep.yaml")
    cfg.MODEL.DETR.HIDDEN_DIM, cfg.MODEL.DETR.ENC_LAYERS, cfg.MODEL.DETR.DEC_LAYERS = 32, 1, 1
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES, cfg.MODEL.DEVICE = 5, "cpu"
    model = build_model(cfg).eval()
    weights = torchvision.models.swin_t(weights=None).state_dict()
    torch.save(weights, tmp_path / "swin.pth")
    report = load_weights(model, str(tmp_path / "swin.pth"))
    assert report.format == "torchvision Swin"
    key = "features.3.0.attn.qkv.weight"
    assert torch.equal(model.backbone.state_dict()[key], weights[key])
    assert {x.split(".")[1] for x in report.random if x.startswith("backbone.")} == {"norms"}
    (result,) = model([{"image": torch.zeros(3, 64, 90)}])
    assert len(result["instances"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "swin_x"}, "MODEL.SWIN.NAME is 'swin_x'; choose from swin_t"),
        ({"out_features": ["p4"]}, r"OUT_FEATURES are \['p4'\]; choose from \['p0', 'p1'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        Swin(**options)
