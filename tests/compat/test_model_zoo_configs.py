from types import ModuleType

import pytest

from d2detr.compat.stand_ins import explain_missing_configs


def test_a_model_zoo_without_its_configs_says_how_to_get_them(tmp_path):
    """As pip installs the Python part; where they are, Detectron2's own function answers."""
    zoo = ModuleType("model_zoo")
    zoo.__file__ = str(tmp_path / "model_zoo.py")
    zoo.get_config_file = lambda config_path: f"found {config_path}"
    explain_missing_configs(zoo)
    with pytest.raises(RuntimeError, match="retinanet.yaml is not there.*tools/setup_env.sh"):
        zoo.get_config_file("retinanet.yaml")
    (tmp_path / "configs").mkdir()
    assert zoo.get_config_file("retinanet.yaml") == "found retinanet.yaml"
