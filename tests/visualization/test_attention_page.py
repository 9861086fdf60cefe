"""The page of attention in a real browser."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from d2detr.visualization import explain, write_attention_page
from tests.modeling.inputs import make_input

NAME = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def explanation(tiny_mask_cfg):
    """Of a DAB-DETR with masks, three of whose queries find something."""
    tiny_mask_cfg.MODEL.DETR.DECODER = "dab"
    torch.manual_seed(0)
    model = build_model(tiny_mask_cfg).eval()
    image = make_input(60, 90)["image"]
    scores = np.sort(explain(model, image, "BGR").attention.scores[-1])
    return explain(model, image, "BGR", [NAME] * model.num_classes, float(scores[-3]))


@pytest.fixture
def page(open_page, explanation, tmp_path, request):
    write_attention_page(explanation, tmp_path / "explain.html", NAME)
    return open_page(tmp_path / "explain.html", getattr(request, "param", "light"))


class Picture:
    """Tells whether one of the page's pictures has changed, or is what it was before."""

    def __init__(self, page, name):
        self._page, self._script = page, f"document.getElementById('{name}-picture').toDataURL()"
        self._seen = {}

    def is_new(self, label):
        current = self._page.evaluate(self._script)
        is_new = current not in self._seen.values()
        self._seen[label] = current
        return is_new

    def is_that_of(self, label):
        return self._page.evaluate(self._script) == self._seen[label]


def chosen(page):
    buttons = page.locator("#detections button").all()
    return [i for i, x in enumerate(buttons) if x.get_attribute("aria-pressed") == "true"]


def test_detections_layers_and_heads_are_chosen(page, faults):
    picture = Picture(page, "decoder")
    buttons, layer = page.locator("#detections button"), page.locator("#layer")
    assert buttons.count() == 3 and chosen(page) == [0]
    assert page.title() == NAME and buttons.first.inner_text().startswith(NAME)
    assert picture.is_new("first")
    buttons.nth(1).click()
    assert picture.is_new("second") and chosen(page) == [1]
    layer.fill("0")
    assert picture.is_new("layer") and page.locator("#layer-name").inner_text() == "1 of 3"
    page.select_option("#head", "2")
    assert picture.is_new("head")
    layer.fill("3")
    assert picture.is_new("mask head")
    assert page.locator("#layer-name").inner_text() == "mask head"
    page.select_option("#head", "mean of all")
    layer.fill("2")
    buttons.first.click()
    assert picture.is_that_of("first")
    assert faults == []


def test_click_into_the_picture_chooses_the_detection_there(page, faults, explanation):
    attention = explanation.attention
    height, width = attention.size
    boxes = attention.boxes[-1, explanation.queries] / (width, height, width, height)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    area = page.locator("#decoder-picture").bounding_box()
    for number in (2, 1):
        x, y = (boxes[number, :2] + boxes[number, 2:]) / 2
        inside = ((boxes[:, :2] <= (x, y)) & (boxes[:, 2:] >= (x, y))).all(1)
        place = {"x": x * area["width"], "y": y * area["height"]}
        page.locator("#decoder-picture").click(position=place)
        assert chosen(page) == [np.where(inside, areas, np.inf).argmin()]
    assert faults == []


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_cells_of_the_encoder_are_chosen(page, faults):
    picture, canvas = Picture(page, "encoder"), page.locator("#encoder-picture")
    assert picture.is_new("middle")
    canvas.scroll_into_view_if_needed()
    canvas.hover(position={"x": 5, "y": 5})
    assert picture.is_new("corner")
    canvas.focus()
    canvas.press("ArrowRight")
    assert picture.is_new("beside")
    canvas.press("ArrowLeft")
    assert picture.is_that_of("corner")
    for _ in range(9):
        canvas.press("ArrowUp")  # no further than the edge
    assert picture.is_that_of("corner")
    page.locator("#encoder-layer").fill("0")
    assert picture.is_new("first layer")
    assert faults == []


def test_fits_narrow_screens(page, faults):
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    for name in ("decoder", "encoder"):
        area = page.locator(f"#{name}-picture").bounding_box()
        assert area["width"] > 350 and abs(area["height"] - area["width"] * 60 / 90) < 2
    assert faults == []
