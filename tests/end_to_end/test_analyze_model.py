import json

from tests.end_to_end.test_train_net import ROOT, run_tool


def test_numbers_are_printed_and_written(tmp_path):
    config = ("--config-file", ROOT / "configs" / "quickstart.yaml")
    options = ("--tasks", "parameter", "flop", "--size", "64x96", "--json", "costs.json")
    overrides = ("MODEL.DETR.NUM_CLASSES", "5")
    process = run_tool("analyze_model.py", tmp_path, *options, *config, *overrides)
    assert process.returncode == 0, process.stderr
    assert "multiply-adds (G)" in process.stdout
    costs = json.loads((tmp_path / "costs.json").read_text())
    assert costs["size"] == [64, 96]
    assert costs["multiply_adds"][""] > costs["multiply_adds"]["backbone"] > 0
