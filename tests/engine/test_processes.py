"""Processes that die, on one machine and on two, and those that other launchers start."""

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import d2detr

SCRIPT = """
import argparse
import os
import signal

import d2detr
from d2detr.engine import add_launch_arguments, run
from detectron2.utils import comm


def main(args):
    comm.synchronize()
    print(comm.get_rank(), comm.get_local_rank(), comm.get_world_size(), flush=True)
    if args.fault and comm.get_rank() == 1:
        if args.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("one and one is three")
    while args.fault:
        comm.synchronize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault")
    add_launch_arguments(parser)
    args = parser.parse_args()
    args.config_file, args.opts, args.output = "", [], "output"
    run(main, args)
"""


@pytest.fixture
def start(tmp_path):
    """Starts the script, with arguments and variables of the environment."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    started = []

    def start(*args, **variables):
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(d2detr.__file__).parents[1]),
            **variables,
        }
        command = [sys.executable, "-W", "ignore", script, *args]
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_killed_process_ends_those_of_both_machines_with_the_reason(start):
    url = f"tcp://127.0.0.1:{free_port()}"
    machines = [
        start(
            *("--fault", "kill", "--num-machines", "2", "--machine-rank", str(rank)),
            *("--dist-url", url),
            GLOO_SOCKET_IFNAME="lo",
        )
        for rank in range(2)
    ]
    for rank, machine in enumerate(machines):
        output, errors = machine.communicate(timeout=200)
        assert output == f"{rank} 0 2\n"
        assert errors == (
            f"error: Process 1 of 2 on {socket.gethostname()}, whose log is output/log.txt.rank1, "
            "was killed by SIGKILL, as the system does when memory runs out.\n"
        )
        assert machine.returncode == 128 + 9


def test_an_error_in_a_process_is_told_once_and_ends_the_others(start):
    process = start("--fault", "error", "--num-gpus", "2")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert errors.endswith(
        "error: Process 1 of 2, whose log is output/log.txt.rank1, ended with ValueError: one and "
        "one is three\n"
    )
    assert errors.count("Traceback") == 1  # of the error itself
    assert "Connection" not in errors


def test_processes_of_slurm_join(start):
    common = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    tasks = [start(**common, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)) for rank in range(2)]
    for rank, task in enumerate(tasks):
        output, errors = task.communicate(timeout=200)
        assert (output, errors, task.returncode) == (f"{rank} {rank} 2\n", "", 0)
