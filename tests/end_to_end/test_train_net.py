"""The command line, as a user types it, on the embedded data."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.dataset_trees import coco, two_splits

ROOT = Path(__file__).parents[2]
SMALL = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.STEPS", "()", "DATALOADER.NUM_WORKERS", "0"]
HANGS = 900  # seconds; far more than a busy machine needs


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("end_to_end")


def start_tool(name, directory, *args, launcher=()):
    """Start a tool in a directory of its own; returns the process, which leads a group."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "DETECTRON2_DATASETS": str(directory / "datasets"),
        "FVCORE_CACHE": str(directory / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *launcher, ROOT / "tools" / name, *args],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_tool(name, directory, *args, launcher=()):
    """Run a tool in a directory of its own; returns the finished process."""
    process = start_tool(name, directory, *args, launcher=launcher)
    try:
        output, errors = process.communicate(timeout=HANGS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


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


def test_two_processes_evaluate_a_folder_that_is_named_relatively(directory):
    coco(directory / "data", two_splits())
    datasets = ("DATASETS.TRAIN", "('auto:data:train',)", "DATASETS.TEST", "('auto:data:val',)")
    evaluated = train(
        directory,
        *("--num-gpus", "2", "--eval-only", *datasets, "MODEL.DETR.NUM_CLASSES", "5"),
        *("DATALOADER.NUM_WORKERS", "0", "MODEL.WEIGHTS", "", "OUTPUT_DIR", "evaluated"),
    )
    assert evaluated.returncode == 0, evaluated.stderr
    results = directory / "evaluated" / "inference" / "coco_instances_results.json"
    assert {result["image_id"] for result in json.loads(results.read_text())} == {1, 2, 3}


def test_two_processes_stop_together(directory):
    """The signal goes to the launching process, as from `kill` or a job's end."""
    output = directory / "stopped"
    config_file = ROOT / "configs" / "quickstart.yaml"
    trained = start_tool(
        "train_net.py",
        directory,
        *("--num-gpus", "2", "--config-file", config_file, *SMALL, "OUTPUT_DIR", output),
    )
    metrics = output / "metrics.json"
    while trained.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.1)
    trained.send_signal(signal.SIGTERM)
    _, said = trained.communicate(timeout=HANGS)
    assert trained.returncode == 128 + signal.SIGTERM, said
    iterations = int(re.search(r"Stopped by SIGTERM: (\d+) iterations are saved in", said)[1])
    assert (output / "last_checkpoint").read_text() == f"model_{iterations - 1:07d}.pth"
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        while True:
            os.killpg(trained.pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["DATASETS.TRAIN", "('shape_train',)"], "Did you mean shapes_train"),
        (["MODEL.DETR.NUM_CLASSES", "80"], "80 classes, but dataset 'shapes_train' has 5"),
    ],
    ids=["dataset", "classes"],
)
def test_bad_input_ends_with_one_message(directory, args, message):
    failed = train(directory, *args, "OUTPUT_DIR", str(directory / "bad"))
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
