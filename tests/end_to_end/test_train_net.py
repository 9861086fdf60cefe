"""The command line, as a user types it, on the embedded data."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SMALL = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("end_to_end")


def run_tool(name, directory, *args):
    """Run a tool in a directory of its own; returns the finished process."""
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(directory / "datasets"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tools" / name, *args],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def train(directory, *args):
    config_file = ROOT / "configs" / "quickstart.yaml"
    return run_tool("train_net.py", directory, "--config-file", config_file, *args)


def last_iteration(output):
    """The evaluation after training is logged under the number of iterations done."""
    lines = (output / "metrics.json").read_text().splitlines()
    return max(json.loads(line)["iteration"] for line in lines)


def test_train_resume_evaluate_and_draw(directory):
    output = directory / "output" / "quickstart"
    trained = train(directory, *SMALL, "SOLVER.MAX_ITER", "6")
    assert trained.returncode == 0, trained.stderr
    assert last_iteration(output) == 6

    resumed = train(directory, "--resume", *SMALL, "SOLVER.MAX_ITER", "9")
    assert resumed.returncode == 0, resumed.stderr
    assert "Starting training from iteration 6" in resumed.stdout
    assert last_iteration(output) == 9

    weights = str(output / "model_final.pth")
    evaluated = train(directory, "--eval-only", "MODEL.WEIGHTS", weights)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in evaluated.stdout

    results = output / "inference" / "coco_instances_results.json"
    picture = directory / "predictions.png"
    drawn = run_tool(
        "visualize_results.py",
        directory,
        *("--dataset", "shapes_val", "--results", results, "--output", picture),
        *("--num-images", "4", "--columns", "2"),
    )
    assert drawn.returncode == 0, drawn.stderr
    assert min(Image.open(picture).size) > 400


def test_two_processes(directory):
    output = directory / "two_processes"
    trained = train(
        directory, "--num-gpus", "2", *SMALL, "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(output)
    )
    assert trained.returncode == 0, trained.stderr
    assert last_iteration(output) == 3
    assert len(json.loads((output / "inference/coco_instances_results.json").read_text())) == 2000


def test_two_processes_stop_together(directory):
    """The signal goes to the launching process, as from `kill` or a job's end."""
    output = directory / "stopped"
    config_file = ROOT / "configs" / "quickstart.yaml"
    trained = subprocess.Popen(
        [sys.executable, "-W", "ignore", ROOT / "tools" / "train_net.py", "--num-gpus", "2"]
        + ["--config-file", config_file, *SMALL, "OUTPUT_DIR", str(output)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        | {"DETECTRON2_DATASETS": str(directory / "datasets")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = output / "metrics.json"
    for _ in range(1500):
        if trained.poll() is not None or (metrics.is_file() and metrics.stat().st_size):
            break
        time.sleep(0.1)
    trained.send_signal(signal.SIGTERM)
    _, said = trained.communicate(timeout=120)
    assert trained.returncode == 128 + signal.SIGTERM, said
    iterations = int(re.search(r"Stopped by SIGTERM: (\d+) iterations are saved in", said)[1])
    assert (output / "last_checkpoint").read_text() == f"model_{iterations - 1:07d}.pth"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.killpg(trained.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["DATASETS.TRAIN", "('shape_train',)"], "Did you mean shapes_train"),
        (["MODEL.DETR.NUM_CLASSES", "80"], "80 classes, but dataset 'shapes_train' has 5"),
        (["--num-gpus", "2", "MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth does not exist"),
    ],
    ids=["dataset", "classes", "weights-of-two-processes"],
)
def test_bad_input_ends_with_one_message(directory, args, message):
    failed = train(directory, *args, "OUTPUT_DIR", str(directory / "bad"))
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
