import io

import pytest
import torch
from detectron2.utils.logger import setup_logger
from torch import nn

from d2detr.checkpoint import to_original
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    load,
    predict,
    small_detr,
)


@pytest.fixture(scope="module")
def trained():
    return small_detr(seed=1, class_names=list("abcdefg"))


@pytest.fixture
def log(caplog):
    setup_logger(name="d2detr").propagate = True
    return caplog


def test_fine_tune_starts_with_the_classes_that_both_have(log):
    coco = small_detr(seed=1, num_classes=91)
    model = small_detr(num_classes=2, num_queries=5, class_names=["unicorn", "dog"])
    own_row = model.heads.class_embed.weight[0].clone()
    load(model, to_original(coco.state_dict()))
    logits, boxes = predict(model)
    expected_logits, expected_boxes = predict(coco)
    assert torch.equal(model.heads.class_embed.weight[0], own_row)
    first_five = model.transformer.decoder.query_embed.weight
    assert torch.equal(first_five, coco.transformer.decoder.query_embed.weight[:5])
    assert "classes carried over: dog" in log.text
    assert "classes that start anew: unicorn" in log.text
    assert "the first 5 of 10 queries for 5" in log.text

    # Queries attend to each other, so that logits compare with as many of them only.
    model = small_detr(num_classes=2, class_names=["unicorn", "dog"])
    load(model, to_original(coco.state_dict()))
    logits, boxes = predict(model)
    torch.testing.assert_close(logits[..., 1:], expected_logits[..., [18, 91]])
    torch.testing.assert_close(boxes, expected_boxes)


def test_class_names_travel_with_own_weights(trained):
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    model = small_detr(num_classes=2, class_names=["G", "b"])
    load(model, torch.load(file, weights_only=True))
    rows = trained.heads.class_embed.weight
    assert torch.equal(model.heads.class_embed.weight, rows[[6, 1, 7]])


def test_own_weights_load_inside_another_model(trained):
    class Pipeline(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.detector = small_detr(**settings)

    pipeline = Pipeline()
    original = to_original(trained.state_dict())
    report = load(pipeline, {f"detector.{key}": value for key, value in original.items()})
    assert "detector.input_proj.bias" in report.loaded
    assert_same_predictions(predict(pipeline.detector), predict(trained))
    pipeline.detector.class_names = trained.class_names
    again = Pipeline(num_classes=1, class_names=["c"])
    load(again, pipeline.state_dict())
    rows = trained.heads.class_embed.weight
    assert torch.equal(again.detector.heads.class_embed.weight, rows[[2, 7]])


def test_loading_leaves_the_given_weights_as_they_are(trained):
    weights = to_original(trained.state_dict())
    copies = {key: x.clone() for key, x in weights.items()}
    load(small_detr(num_classes=3), weights)
    assert_same_tensors(weights, copies)


@pytest.mark.parametrize(
    "part, keys", [("transformer", "MODEL.DETR"), ("backbone", "MODEL.BACKBONE and MODEL.RESNETS")]
)
def test_backbone_or_transformer_without_weights_is_an_error_unless_wanted(
    trained, part, keys, log
):
    weights = {
        key.replace(f"{part}.", f"my_{part}."): value for key, value in trained.state_dict().items()
    }
    message = f"leave the whole {part} random, although they are d2detr.* Compare {keys} with"
    with pytest.raises(UserError, match=message + ".*partial=True"):
        load(small_detr(), weights)
    report = load(small_detr(), weights, partial=True)
    assert report.loaded
    assert not report.has_loaded(f"{part}.")
    assert f"leave the whole {part} random" in log.text


def test_a_part_of_a_model_is_no_foreign_architecture(trained):
    model = small_detr()
    load(model, {"input_proj.bias": trained.input_proj.bias}, partial=True)
    assert torch.equal(model.input_proj.bias, trained.input_proj.bias)


def test_weights_that_fit_nothing_are_refused():
    model = small_detr()
    with pytest.raises(UserError, match="fit no parameter.*'decoder.weight'.*the model needs"):
        load(model, {"decoder.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"Detectron2 ResNet, but all of other shapes, such as"):
        load(model, {"res2.0.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(trained, value):
    weights = to_original(trained.state_dict())
    weights["input_proj.bias"] = weights["input_proj.bias"].clone()
    weights["input_proj.bias"][3] = value
    with pytest.raises(UserError, match="NaN or infinite in 1 tensors, such as input_proj.bias"):
        load(small_detr(), weights)
