from pathlib import Path

import pytest
from detectron2.utils.logger import setup_logger

from d2detr.config import load_config
from d2detr.engine import Trainer
from d2detr.errors import UserError
from d2detr.model_zoo import get_config_file

RUNS_CODE = "MODEL:\n  WEIGHTS: !!python/object/apply:os.mkdir ['{}']\n"


@pytest.mark.parametrize("chained", [False, True])
def test_config_runs_code_only_where_the_caller_allows_it(tmp_path, chained):
    path, marker = tmp_path / "config.yaml", tmp_path / "marker"
    path.write_text("VERSION: 2\n" + RUNS_CODE.format(marker))
    if chained:
        path = tmp_path / "leaf.yaml"
        path.write_text("_BASE_: config.yaml\n")
    message = r"config.yaml was not read, because reading it could run code: .*os.mkdir' \(line 3"
    with pytest.raises(UserError, match=message + r".*allow_unsafe=True"):
        load_config(str(path))
    assert not marker.exists()
    load_config(str(path), allow_unsafe=True)
    assert marker.exists()


def test_only_the_command_line_can_trust_weights(tmp_path, caplog):
    setup_logger(name="d2detr").propagate = True
    path = tmp_path / "config.yaml"
    path.write_text("MODEL:\n  WEIGHTS_TRUSTED: True\n")
    assert not load_config(str(path)).MODEL.WEIGHTS_TRUSTED
    assert f"MODEL.WEIGHTS_TRUSTED of {path} is ignored" in caplog.text
    assert load_config(str(path), ["MODEL.WEIGHTS_TRUSTED", "True"]).MODEL.WEIGHTS_TRUSTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("MODEL:\n  WEIGHTS: [1,\n", r"bad.yaml is not YAML: .* \(line 3, column 1\)"),
        ("a: b: c", r"bad.yaml is not YAML: .* \(line 1, column 5\)"),
        ("MODEL: {[a]: 3}", r"bad.yaml is not YAML: found unhashable key \(line 1"),
        ("", "bad.yaml is no config: from line 1 on it must hold keys"),
        ("3", "bad.yaml is no config"),
        ("- a\n- b\n", "bad.yaml is no config"),
        ("_BASE_: nowhere.yaml", "nowhere.yaml cannot be read: .*No such file"),
        ("_BASE_: bad.yaml", "bad.yaml is its own _BASE_"),
        ("MODEL: 3", "The config cannot be read.*bad.yaml"),
        ("MODEL: \x00", "bad.yaml is not YAML: .*special characters"),
    ],
)
@pytest.mark.parametrize("chained", [False, True])
def test_what_is_no_config_is_named_in_one_sentence(tmp_path, content, message, chained):
    (tmp_path / "bad.yaml").write_text(content)
    (tmp_path / "leaf.yaml").write_text("_BASE_: bad.yaml\n")
    if chained:
        message = message.replace("read.*bad.yaml", "read.*leaf.yaml")
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / ("leaf.yaml" if chained else "bad.yaml")))


@pytest.mark.parametrize("key", ["IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD"])
def test_counts_of_a_training_are_positive(tiny_cfg, key):
    tiny_cfg.SOLVER[key] = 0
    with pytest.raises(UserError, match=f"SOLVER.{key} is 0, but must be at least 1"):
        Trainer(tiny_cfg)


def test_a_device_exists_by_its_name():
    with pytest.raises(UserError, match="MODEL.DEVICE is 'foo', which is no device"):
        load_config("", ["MODEL.DEVICE", "foo"])


def test_own_configs_are_found_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart.yaml").MODEL.DETR.HIDDEN_DIM == 128
    assert load_config("configs/quickstart.yaml") == load_config("quickstart.yaml")


def test_the_former_name_of_in_features(tmp_path, caplog):
    base = Path(get_config_file("learning/detr.yaml")).resolve()
    old = tmp_path / "old.yaml"
    old.write_text(f"_BASE_: '{base}'\nMODEL:\n  DETR:\n    IN_FEATURE: 'res2'\n")
    assert load_config(str(old)).MODEL.DETR.IN_FEATURES == ("res2",)
    assert "is called IN_FEATURES now" in caplog.text
    with pytest.raises(UserError, match="renamed to MODEL.DETR.IN_FEATURES"):
        load_config(str(base), ["MODEL.DETR.IN_FEATURE", "res2"])
