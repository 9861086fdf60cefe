"""DC5 weights look alike, whether their first block was trained dilated or not."""

import pytest
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from d2detr.checkpoint import load_weights, to_original
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    load,
    predict,
    randomize,
    small_cfg,
    wrapper_state_dict,
)


def build(first_block="auto", seed=None):
    cfg = small_cfg(depth=50)
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    cfg.MODEL.DETR.DC5_FIRST_BLOCK = first_block
    model = build_model(cfg).eval()
    if seed is not None:
        randomize(model, seed)
    return model


@pytest.fixture(scope="module")
def dilated():
    return build("dilated", seed=1)


@pytest.fixture(scope="module")
def undilated():
    return build("undilated", seed=1)


@pytest.fixture
def log(caplog):
    setup_logger(name="d2detr").propagate = True
    return caplog


def test_format_tells(dilated, undilated):
    model = build()
    load(model, wrapper_state_dict(dilated, "detr."))
    assert_same_predictions(predict(model), predict(dilated))
    load(model, to_original(undilated.state_dict()))
    assert_same_predictions(predict(model), predict(undilated))
    difference = predict(dilated)[0] - predict(undilated)[0]
    assert difference.abs().max() > 0.01  # so that none of this passes by itself


def test_own_checkpoint_tells(dilated, tmp_path):
    model = build()
    load(model, wrapper_state_dict(dilated, "detr."))
    DetectionCheckpointer(model, str(tmp_path)).save("fine_tuned")
    for read in (load_weights, lambda model, path: DetectionCheckpointer(model).load(path)):
        again = build()
        read(again, str(tmp_path / "fine_tuned.pth"))
        assert_same_predictions(predict(again), predict(dilated))


def test_key_decides_otherwise(dilated, undilated, log):
    model = build("undilated")
    load(model, wrapper_state_dict(dilated, "detr."))
    assert_same_predictions(predict(model), predict(undilated))
    assert "convolution of the DC5 backbone dilated, but MODEL.DETR.DC5_FIRST_BLOCK is" in log.text
    with pytest.raises(UserError, match="DC5_FIRST_BLOCK is 'yes'; choose from auto, dilated"):
        build("yes")


def test_where_nothing_tells_the_log_says_what_was_assumed(undilated, log):
    model = build()
    load(model, dict(undilated.state_dict()))
    assert_same_predictions(predict(model), predict(undilated))
    assert "it is taken for undilated. MODEL.DETR.DC5_FIRST_BLOCK" in log.text
