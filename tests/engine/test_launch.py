import pytest
import torch
import yaml

from d2detr import model_zoo
from d2detr.config import load_config
from d2detr.engine import exit_on_user_error
from d2detr.errors import UserError


def test_overrides_come_last():
    cfg = load_config(
        model_zoo.get_config_file("detr_r50.yaml"), ["MODEL.DETR.NUM_OBJECT_QUERIES", "7"]
    )
    assert cfg.MODEL.DETR.NUM_OBJECT_QUERIES == 7
    assert cfg.MODEL.RESNETS.DEPTH == 50


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_falls_back_to_the_cpu():
    assert load_config("", ["MODEL.DEVICE", "cuda"]).MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.DETR.NUM_QUERIES", "7"], "Non-existent.*NUM_QUERIES"),
        (["MODEL.DETR.NUM_OBJECT_QUERIES", "many"], "Type mismatch.*NUM_OBJECT_QUERIES"),
        (["MODEL.DETR.NUM_OBJECT_QUERIES"], "Override list"),
    ],
)
def test_bad_overrides(opts, message):
    with pytest.raises(UserError, match=message):
        load_config("", opts)


def test_unknown_key_in_yaml_names_key_and_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("MODEL:\n  DETR:\n    QUERYS: 3\n")
    with pytest.raises(UserError, match="MODEL.DETR.QUERYS.*mine.yaml"):
        load_config(str(path))


def test_config_file_that_does_not_exist():
    with pytest.raises(UserError, match="nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_yaml_round_trip(tmp_path):
    cfg = model_zoo.get_config("detr_r101_dc5.yaml")
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    assert yaml.safe_load(load_config(str(path)).dump()) == yaml.safe_load(cfg.dump())


def test_user_error_ends_the_program_with_its_message_alone():
    with pytest.raises(SystemExit, match="^error: no such thing$"), exit_on_user_error():
        raise UserError("no such thing")
