import pytest
from detectron2.modeling import build_model

from d2detr import model_zoo
from d2detr.errors import UserError

# Millions of parameters of the original models.
PARAMETERS = {
    "detr_r50.yaml": 41.524768,
    "detr_r50_dc5.yaml": 41.524768,
    "detr_r101.yaml": 60.464,
    "detr_r101_dc5.yaml": 60.464,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_the_original(name):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DETR.NUM_CLASSES = 91
    model = build_model(cfg)
    count = sum(x.numel() for x in model.parameters())
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=1e-2)


def test_get_config_trained_names_the_released_weights():
    cfg = model_zoo.get_config("detr_r50.yaml", trained=True)
    assert cfg.MODEL.WEIGHTS == "detr://detr_r50"
    with pytest.raises(UserError, match="quickstart.yaml has no released weights"):
        model_zoo.get_config("quickstart.yaml", trained=True)


def test_get_builds_a_model_in_training_mode():
    assert model_zoo.get("quickstart.yaml", device="cpu").training


def test_unknown_config_names_the_known_ones():
    with pytest.raises(UserError, match="detr_r101.yaml"):
        model_zoo.get_config_file("detr_r18.yaml")
