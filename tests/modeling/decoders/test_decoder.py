"""The decoder of docs/decoders.md, as a third party would bring it."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from d2detr.modeling import DECODER_REGISTRY
from tests.modeling.inputs import make_input


@pytest.fixture
def looking():
    text = (Path(__file__).parents[3] / "docs" / "decoders.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 40
    exec(compile(code, "docs/decoders.md", "exec"), {"__name__": "third_party"})
    yield DECODER_REGISTRY.get("looking")
    del DECODER_REGISTRY._obj_map["looking"]


def test_decoder_of_another_file_trains_and_detects(tiny_cfg, looking):
    tiny_cfg.MODEL.DETR.DECODER = "looking"
    model = build_model(tiny_cfg)
    assert type(model.transformer.decoder) is looking
    losses = model([make_input(48, 64, 2), make_input(64, 48, 1)])
    sum(losses.values()).backward()
    assert {"loss_ce", "loss_bbox_1"} <= losses.keys()
    assert all(x.grad is not None for x in model.parameters())
    boxes = model.eval()([make_input(48, 64)])[0]["instances"].pred_boxes.tensor
    assert boxes.shape == (10, 4)
    assert torch.isfinite(boxes).all()
