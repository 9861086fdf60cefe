import re

from tests.checkpoint.helpers import assert_same_predictions, predict, small_detr

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
    model.load_state_dict({detrex_key(k): v for k, v in trained.state_dict().items()})
    assert_same_predictions(predict(model), predict(trained))
    assert model.load_report.format == "detrex DETR"
