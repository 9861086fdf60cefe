"""Processes that die, on one machine and on two, and those that other launchers start."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import d2detr

HANGS = 900  # seconds; far more than a busy machine needs


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By the name of a scenario: status, output and errors of what started its processes."""
    folder = tmp_path_factory.mktemp("scenarios")
    script = Path(__file__).with_name("scenarios.py")
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(d2detr.__file__).parents[1]),
    }
    command = [sys.executable, "-W", "ignore", script]
    scenarios = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANGS
    )
    assert scenarios.returncode == 0, scenarios.stderr
    return {
        name: (status, *((folder / f"{name}.{kind}").read_text() for kind in ("out", "err")))
        for name, status in json.loads(scenarios.stdout).items()
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_those_of_both_machines_with_the_reason(ended, rank):
    assert ended[f"machine{rank}"] == (
        128 + 9,
        f"{rank} 0 2\n",
        f"error: Process 1 of 2 on {socket.gethostname()}, whose log is output/log.txt.rank1, "
        "was killed by SIGKILL, as the system does when memory runs out.\n",
    )


def test_an_error_in_a_process_is_told_once_and_ends_the_others(ended):
    status, _, errors = ended["error"]
    assert status == 1
    assert errors.endswith(
        "error: Process 1 of 2, whose log is output/log.txt.rank1, ended with ValueError: one and "
        "one is three\n"
    )
    assert errors.count("Traceback") == 1  # of the error itself
    assert "Connection" not in errors


def test_processes_of_slurm_join_and_say_what_is_wrong(ended):
    tasks = [ended[f"task{rank}"] for rank in range(2)]
    assert [(status, output) for status, output, _ in tasks] == [(1, "0 0 2\n"), (1, "1 1 2\n")]
    # The second one may find that the first, which keeps what was told, has ended already.
    assert {errors for _, _, errors in tasks} - {""} == {"error: no such thing\n"}
