import pytest

from tests.checkpoint.helpers import (
    assert_same_predictions,
    load,
    predict,
    small_detr,
    wrapper_state_dict,
)


@pytest.mark.parametrize("prefix", ["detr.", "detr.detr."])
def test_wrapper_checkpoint_gives_its_detections(prefix):
    trained, model = small_detr(seed=2), small_detr()
    report = load(model, wrapper_state_dict(trained, prefix))
    assert_same_predictions(predict(model), predict(trained))
    assert report.format == "DETR's Detectron2 wrapper"
