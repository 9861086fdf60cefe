import subprocess
import sys
from pathlib import Path

from d2detr.model_zoo import get_config_file

CODE = """
import logging, sys
from termcolor import colored
from d2detr.engine import default_argument_parser, setup
arguments = ["--config-file", sys.argv[1], "OUTPUT_DIR", sys.argv[2], "SOLVER.MAX_ITER", "77"]
cfg = setup(default_argument_parser().parse_args(arguments + sys.argv[3:]))
print("weights:", cfg.MODEL.WEIGHTS)
logging.getLogger("fvcore.common.checkpoint").warning(colored("missing", "blue", force_color=True))
"""


def test_log_has_no_colours_and_the_config_once(tmp_path):
    config_file = get_config_file("quickstart.yaml")
    subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, config_file, tmp_path], check=True)
    log = Path(tmp_path, "log.txt").read_text()
    assert "\x1b" not in log
    assert "WARNING: missing" in log
    assert log.count("MAX_ITER: 77") == 1
    assert "MAX_ITER: 5200" not in log


def test_another_run_is_set_aside(tmp_path):
    (tmp_path / "model_final.pth").write_text("trained for days")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, get_config_file("quickstart.yaml"), tmp_path]
        + ["MODEL.WEIGHTS", tmp_path / "model_final.pth"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "previous-1" / "model_final.pth").read_text() == "trained for days"
    assert f"{tmp_path / 'previous-1'} now" in done.stdout
    assert f"weights: {tmp_path / 'previous-1' / 'model_final.pth'}" in done.stdout
