#!/usr/bin/env python
"""Kill fine-tunings at random moments, and see that they end like those that nobody killed.

Every run is resumed until it ends. Its last model, its best model and its metrics must then equal
those of an unbroken run to the last bit. A third of the kills come while a file is being written.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from d2detr.checkpoint.saving import is_whole  # noqa: E402
from d2detr.config import load_config  # noqa: E402
from d2detr.engine import exit_on_user_error  # noqa: E402
from d2detr.finetune import run_finetuning  # noqa: E402
from d2detr.model_zoo import get_config_file  # noqa: E402
from d2detr.visualization import draw_results  # noqa: E402, F401 imported once, for all runs
from tests.dataset_trees import FORMATS, two_splits  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LONGEST_RUN = 300.0  # seconds, after which a run hangs
OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.DETR.HIDDEN_DIM": 32,
    "MODEL.DETR.DIM_FEEDFORWARD": 64,
    "MODEL.DETR.DROPOUT": 0.1,
    "INPUT.MIN_SIZE_TRAIN": (48, 64),
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.SIZE": (32, 64),
    "INPUT.MIN_SIZE_TEST": 48,
    "MODEL.DETR.NUM_OBJECT_QUERIES": 8,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.STEPS": (18,),
    "SOLVER.MAX_ITER": 24,
    "SOLVER.CHECKPOINT_PERIOD": 3,
    "TEST.EVAL_PERIOD": 9,
    "VIS_PERIOD": 0,
    "SEED": 3,
}


class Run:
    """One training in a folder of its own, of processes that are forked from this one."""

    def __init__(self, root: Path, name: str, num_workers: int):
        self.output = root / name
        options = {
            **OPTIONS,
            "DATASETS.TRAIN": (f"auto:{root / 'data'}:train",),
            "DATASETS.TEST": (f"auto:{root / 'data'}:val",),
            "DATALOADER.NUM_WORKERS": num_workers,
            "OUTPUT_DIR": str(self.output),
        }
        self._cfg = load_config(
            get_config_file("quickstart.yaml"), [x for pair in options.items() for x in pair]
        )
        self.output.mkdir()

    def start(self) -> int:
        """Start or resume; returns the process, which leads a group of its own."""
        process = os.fork()
        if process:
            with suppress(OSError):
                os.setpgid(process, process)
            return process
        os.setpgid(0, 0)
        log = os.open(f"{self.output}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            with exit_on_user_error():
                run_finetuning(self._cfg, resume=True)
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
            print(exit_.code)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def results(self) -> dict:
        """What must not depend on kills and workers."""
        models = {
            name: torch.load(self.output / name, weights_only=True)
            for name in ("model_final.pth", "model_best.pth")
        }
        files = {
            name: json.loads((self.output / name).read_text())
            for name in ("results.json", "best.json", "classes.json")
        }
        return {**models, **files}

    def check(self) -> None:
        """Check that each file that is there is whole."""
        for file in self.output.rglob("*"):
            if file.name.startswith(".partial-") or ".partial-files" in file.parts:
                continue
            if file.suffix == ".pth" and file.parent == self.output:
                assert is_whole(file), f"{file} is not whole"
            if file.suffix == ".json" and file.name != "metrics.json":
                json.loads(file.read_text())


def wait(process: int, is_due: Callable[[], bool] = lambda: False) -> int | None:
    """Wait until a process ends, whose status is returned, or something is due."""
    start = time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if is_due():
            return None
        if time.monotonic() - start > LONGEST_RUN:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise AssertionError(f"Process {process} did not end in {LONGEST_RUN} s.")
        time.sleep(0.0005)


def kill(run: Run, number: signal.Signals, seconds: float, at_writing: bool) -> bool:
    """Start a run and kill it; returns whether it came to that.

    Args:
        run: what to start.
        number: the signal.
        seconds: when to kill it.
        at_writing: from then on, wait for a file that is being written.
    """
    process = run.start()
    due = time.monotonic() + seconds

    def is_due() -> bool:
        if time.monotonic() < due:
            return False
        return not at_writing or any(
            name.startswith(".partial-") for name in os.listdir(run.output)
        )

    status = wait(process, is_due)
    if status is None:
        os.killpg(process, number) if number == signal.SIGKILL else os.kill(process, number)
        status = wait(process)
        expected = -number if number == signal.SIGKILL else 128 + number
        # A signal that comes when everything is done has nothing left to stop.
        assert status in (expected, 0), f"{number.name} ended {run.output} with status {status}"
        assert_gone(process)
    elif status:
        raise AssertionError(f"{run.output} ended with status {status}, see {run.output}.txt")
    run.check()
    return status != 0


def assert_gone(group: int) -> None:
    """Check that no process of a group is left, at most after a few seconds."""
    for _ in range(1000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"Processes of group {group} are still there.")


def differences(expected: object, found: object, where: str = "") -> Iterator[str]:
    """Yield where two results differ in any bit."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            yield from differences(expected.get(key), found.get(key), f"{where}/{key}")
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            yield where
        for index, (first, second) in enumerate(zip(expected, found, strict=False)):
            yield from differences(first, second, f"{where}/{index}")
    elif isinstance(expected, torch.Tensor):
        if not (isinstance(found, torch.Tensor) and torch.equal(expected, found)):
            yield where
    elif expected != found and not (expected != expected and found != found):  # NaN is itself
        yield where


def check_kills(
    root: Path, kills: int, seconds: float, kills_per_run: int = 5, seed: int = 0
) -> dict[str, object]:
    """Kill runs with 0, 1 and 2 workers in turn, and compare them with an unbroken one.

    Args:
        root: an empty folder.
        kills: how often.
        seconds: no kill comes later than this.
        kills_per_run: at most.
        seed: decides the moments.

    Returns:
        Figures of what was done.
    """
    start = time.monotonic()
    torch.set_num_threads(1)
    FORMATS["coco"](root / "data", two_splits())
    unbroken = Run(root, "unbroken", num_workers=0)
    assert wait(unbroken.start()) == 0, f"see {unbroken.output}.txt"
    duration = time.monotonic() - start
    reference = unbroken.results()
    rng, done, runs = random.Random(seed), Counter(), 0
    while done["kills"] < kills and time.monotonic() - start < seconds:
        run = Run(root, f"killed_{runs}", num_workers=runs % 3)
        is_killed = True
        for _ in range(min(kills_per_run, kills - done["kills"])):
            at_writing = done["kills"] % 3 == 2
            number = rng.choice(SIGNALS)
            is_killed = kill(run, number, rng.uniform(0, 0.7 * duration), at_writing)
            if not is_killed:
                break
            done.update(["kills", number.name, *(["while writing"] if at_writing else [])])
        assert not is_killed or wait(run.start()) == 0, f"see {run.output}.txt"
        found = sorted(differences(reference, run.results()))
        assert not found, f"{run.output} differs from the unbroken run in {found}"
        shutil.rmtree(run.output)
        runs += 1
    seconds = time.monotonic() - start
    return {**done, "runs": runs, "seconds": round(seconds), "unbroken": round(duration, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=900, help="no kill comes later")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ["FVCORE_CACHE"] = str(Path(root, "cache"))
        print(json.dumps(check_kills(Path(root), args.kills, args.seconds, seed=args.seed)))


if __name__ == "__main__":
    main()
