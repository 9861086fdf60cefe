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
    model.load_state_dict(to_original(coco.state_dict()))
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
    model.load_state_dict(to_original(coco.state_dict()))
    logits, boxes = predict(model)
    torch.testing.assert_close(logits[..., 1:], expected_logits[..., [18, 91]])
    torch.testing.assert_close(boxes, expected_boxes)


def test_class_names_travel_with_own_weights(trained):
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    model = small_detr(num_classes=2, class_names=["G", "b"])
    model.load_state_dict(torch.load(file, weights_only=True))
    rows = trained.heads.class_embed.weight
    assert torch.equal(model.heads.class_embed.weight, rows[[6, 1, 7]])


def test_own_weights_load_inside_another_model(trained):
    class Pipeline(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.detector = small_detr(**settings)

    pipeline = Pipeline()
    original = to_original(trained.state_dict())
    pipeline.load_state_dict({f"detector.{key}": value for key, value in original.items()})
    assert_same_predictions(predict(pipeline.detector), predict(trained))
    pipeline.detector.class_names = trained.class_names
    again = Pipeline(num_classes=1, class_names=["c"])
    again.load_state_dict(pipeline.state_dict())
    rows = trained.heads.class_embed.weight
    assert torch.equal(again.detector.heads.class_embed.weight, rows[[2, 7]])


def test_loading_leaves_the_given_weights_as_they_are(trained):
    weights = to_original(trained.state_dict())
    copies = {key: x.clone() for key, x in weights.items()}
    small_detr(num_classes=3).load_state_dict(weights)
    assert_same_tensors(weights, copies)


def test_transformer_without_weights_is_a_loud_warning(trained, log):
    weights = to_original(trained.state_dict())
    weights = {key: x for key, x in weights.items() if "transformer" not in key}
    del weights["query_embed.weight"]
    small_detr().load_state_dict(weights, strict=False)
    assert "THE TRANSFORMER HAS NO WEIGHTS" in log.text
    assert "initial value, not in the weights: transformer.encoder" in log.text


def test_a_part_of_a_model_is_no_foreign_architecture(trained):
    part = {"input_proj.bias": trained.input_proj.bias}
    model = small_detr()
    model.load_state_dict(part, strict=False)
    assert torch.equal(model.input_proj.bias, trained.input_proj.bias)


def test_weights_that_fit_nothing_are_refused():
    model = small_detr()
    with pytest.raises(UserError, match="fit no parameter.*'decoder.weight'.*the model needs"):
        model.load_state_dict({"decoder.weight": torch.zeros(1)}, strict=False)
    with pytest.raises(UserError, match=r"Detectron2 ResNet, but all of other shapes, such as"):
        model.load_state_dict({"res2.0.conv1.weight": torch.zeros(1)}, strict=False)


def test_strict_loading_still_tells_missing_and_unexpected_keys(trained):
    weights = {**to_original(trained.state_dict()), "extra": torch.zeros(1)}
    del weights["input_proj.bias"]
    with pytest.raises(RuntimeError, match='(?s)"input_proj.bias".*"extra"'):
        small_detr().load_state_dict(weights)
