import base64
import json
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2detr.visualization import (
    draw_decoder_attention,
    draw_encoder_attention,
    explain,
    write_attention_page,
)
from tests.modeling.inputs import make_input

HOSTILE = "</script><img src=x onerror=alert(1)> $^$"


def build(cfg):
    """A model all of whose queries find something."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if model.classification.name == "softmax":
        torch.nn.init.constant_(model.heads.class_embed.bias[-1:], -100)
    return model


def explain_model(model, threshold=0.0, height=60):
    names = [HOSTILE] * model.num_classes
    return explain(model, make_input(height, 90)["image"], "BGR", names, threshold)


def read_page(explanation, folder):
    write_attention_page(explanation, folder / "new" / "explain.html", HOSTILE)
    text = (folder / "new" / "explain.html").read_text()
    assert HOSTILE not in text and "http" not in text
    return json.loads(re.search(r'application/json">(.*?)</script>', text, re.DOTALL)[1])


def levels(text, *shape):
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)


def assert_maps(found, weights):
    largest = weights.max((-2, -1), keepdims=True)
    np.testing.assert_allclose(found / 255, weights / largest, atol=0.5 / 255 + 1e-6)


def test_page_holds_the_weights_of_every_map(tiny_mask_cfg, tmp_path):
    tiny_mask_cfg.MODEL.DETR.DECODER = "dab"
    explanation = explain_model(build(tiny_mask_cfg))
    content, attention = read_page(explanation, tmp_path), explanation.attention
    assert content["title"] == HOSTILE
    assert [x["query"] for x in content["detections"]] == explanation.queries
    query, detection = explanation.queries[0], content["detections"][0]
    assert detection["label"].startswith(HOSTILE)
    scale = np.array([90, 60, 90, 60])
    np.testing.assert_allclose(
        detection["boxes"] * scale, attention.boxes[:, query], atol=0.01, rtol=0.01
    )
    np.testing.assert_allclose(
        detection["references"] * scale, attention.references[:, query], atol=0.01, rtol=0.01
    )
    *layers, mask_head = detection["maps"]
    for text, heads in zip(
        (*layers, mask_head), (*attention.decoder[:, :, query], attention.masks[query]), strict=True
    ):
        found = levels(text, 1 + len(heads), *content["grid"])
        assert_maps(found, np.concatenate((heads.mean(0, keepdims=True), heads)))
    for text, heads in zip(content["encoder"], attention.encoder, strict=True):
        assert_maps(levels(text, *content["grid"] * 2), heads.mean(0))


def test_cells_of_large_images_are_joined_on_the_page(tiny_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr("d2detr.visualization.attention_page._MOST_CELLS", 10)
    content = read_page(explain_model(build(tiny_cfg), height=70), tmp_path)
    assert content["grid"] == [3, 3]  # of 5 x 6
    assert content["extent"] == [6 / 5, 1]
    assert len(levels(content["encoder"][0], -1)) == 9 * 9
    assert "2 x 2 cells of the model are joined to one." in content["notes"]


@pytest.mark.parametrize("num_layers", [0, 2])
def test_image_without_detections(tiny_cfg, tmp_path, num_layers):
    tiny_cfg.MODEL.DETR.ENC_LAYERS = num_layers
    explanation = explain_model(build(tiny_cfg), threshold=1.0)
    content = read_page(explanation, tmp_path)
    assert content["detections"] == [] and len(content["encoder"]) == num_layers
    assert content["notes"][0] == "No query finds an object with a score of at least 1."
    for draw in (draw_encoder_attention, draw_decoder_attention):
        draw(explanation, tmp_path / "picture.png")
        assert Image.open(tmp_path / "picture.png").size[0] > 500


def test_classes_without_a_name_are_numbered(tiny_cfg):
    model = build(tiny_cfg)
    image = make_input(60, 90)["image"]
    assert explain(model, image, "BGR", ["cat", "dog"]).class_names == ["cat", "dog", *"234"]


def test_pictures_show_the_image_and_the_weights(tiny_mask_cfg, tmp_path):
    tiny_mask_cfg.MODEL.DETR.DECODER = "dab"
    explanation = explain_model(build(tiny_mask_cfg))
    sizes = []
    for draw in (draw_encoder_attention, draw_decoder_attention):
        draw(explanation, tmp_path / "picture.png")
        picture = Image.open(tmp_path / "picture.png")
        assert len(set(picture.convert("RGB").getdata())) > 1000
        sizes.append(picture.size)
    assert sizes[1][1] > 1.5 * sizes[0][1]  # 8 detections, each with a map of the mask head
