import re

from detectron2.modeling import build_model

from d2detr.checkpoint import to_original
from tests.checkpoint.helpers import (
    assert_same_predictions,
    load,
    predict,
    randomize,
    small_cfg,
    small_detr,
)

# How detrex numbers the parts of a layer, in the order of their execution.
PARTS = {
    "encoder": {
        "self_attn.": "attentions.0.attn.",
        "linear1.": "ffns.0.layers.0.0.",
        "linear2.": "ffns.0.layers.1.",
        "norm1.": "norms.0.",
        "norm2.": "norms.1.",
    },
    "decoder": {
        "self_attn.": "attentions.0.attn.",
        "multihead_attn.": "attentions.1.attn.",
        "linear1.": "ffns.0.layers.0.0.",
        "linear2.": "ffns.0.layers.1.",
        "norm1.": "norms.0.",
        "norm2.": "norms.1.",
        "norm3.": "norms.2.",
    },
}


def detrex_key(key):
    layer = re.match(r"transformer\.(encoder|decoder)\.layers\.\d+\.", key)
    if layer:
        part = key[layer.end() :]
        for ours, theirs in PARTS[layer[1]].items():
            if part.startswith(ours):
                return layer[0] + theirs + part.removeprefix(ours)
    key = key.removeprefix("heads.")
    key = key.replace("transformer.decoder.query_embed", "query_embed")
    return key.replace("transformer.decoder.norm", "transformer.decoder.post_norm_layer")


def test_detrex_checkpoint_gives_its_detections():
    trained, model = small_detr(seed=3), small_detr()
    report = load(model, {detrex_key(k): v for k, v in trained.state_dict().items()})
    assert_same_predictions(predict(model), predict(trained))
    assert report.format == "detrex DETR"


def test_dc5_checkpoint_with_the_backbone_of_torchvision():
    cfg = small_cfg(depth=50)
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    trained, model = build_model(cfg).eval(), build_model(cfg).eval()
    randomize(trained, seed=3)
    weights = {detrex_key(k): v for k, v in trained.state_dict().items() if "backbone" not in k}
    for key, value in to_original(trained.state_dict()).items():
        if key.startswith("backbone.0.body."):
            weights[key.replace("backbone.0.body.", "backbone.body.")] = value
    report = load(model, weights)
    assert len(report.loaded) == report.total
    assert_same_predictions(predict(model), predict(trained))
