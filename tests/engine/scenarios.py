"""Runs of several processes that end in different ways, all at once, for test_processes.py.

What starts them is forked from this process, which has imported everything: imports take longest.
"""

import argparse
import json
import os
import signal
import socket
import sys

import d2detr  # noqa: F401 before anything of Detectron2

# isort: split
from detectron2.utils import comm

from d2detr.cli.arguments import add_launch_arguments
from d2detr.engine import run
from d2detr.errors import UserError


def main(args: argparse.Namespace) -> None:
    comm.synchronize()
    print(comm.get_rank(), comm.get_local_rank(), comm.get_world_size(), flush=True)
    if args.end == "refusal":
        raise UserError("no such thing")
    if comm.get_rank() == 1:
        if args.end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("one and one is three")
    while True:
        comm.synchronize()


def start(name: str, *arguments: str, **variables: str) -> int:
    """Fork a process that runs ``main`` and writes to NAME.out and NAME.err."""
    process = os.fork()
    if process:
        return process
    os.environ.update(variables)
    for stream, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT), stream)
    parser = argparse.ArgumentParser()
    parser.add_argument("end")
    add_launch_arguments(parser)
    args = parser.parse_args(arguments)
    args.config_file, args.opts, args.output = "", [], "output"
    run(main, args)
    sys.exit()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_all() -> dict[str, int]:
    """Start all scenarios; returns their processes by name."""
    url = f"tcp://127.0.0.1:{free_port()}"
    machines = {
        f"machine{rank}": start(
            *(f"machine{rank}", "kill", "--num-machines", "2", "--machine-rank", str(rank)),
            *("--dist-url", url),
            GLOO_SOCKET_IFNAME="lo",
        )
        for rank in range(2)
    }
    slurm = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    tasks = {
        f"task{rank}": start(
            f"task{rank}", "refusal", **slurm, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)
        )
        for rank in range(2)
    }
    return {**machines, **tasks, "error": start("error", "error", "--num-gpus", "2")}


if __name__ == "__main__":
    ended = {name: os.waitpid(process, 0)[1] for name, process in start_all().items()}
    print(json.dumps({name: os.waitstatus_to_exitcode(status) for name, status in ended.items()}))
