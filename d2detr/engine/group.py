"""Which processes a run consists of, as the command line or a launcher outside of it says."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from d2detr.errors import UserError

_OPTIONS: dict[str, Any] = {"num_gpus": 1, "num_machines": 1, "machine_rank": 0, "dist_url": None}
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """The processes of a run, as many on each machine.

    Attributes:
        num_machines: machines that take part.
        machine_rank: this machine's number.
        num_processes: on each machine.
        address: "HOST:PORT" where the processes meet; "" leaves the choice to one machine.
        local_rank: this process's number on its machine, if something else has started the
            processes; None if they are still to be started.
    """

    num_machines: int
    machine_rank: int
    num_processes: int
    address: str
    local_rank: int | None = None

    @property
    def world_size(self) -> int:
        """All processes."""
        return self.num_machines * self.num_processes

    def rank(self, local_rank: int) -> int:
        """The number of one of this machine's processes among all."""
        return self.machine_rank * self.num_processes + local_rank


def find_group(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Group:
    """Find out which processes a run consists of.

    Args:
        args: ``num_gpus``, ``num_machines``, ``machine_rank`` and ``dist_url`` as given; None
            where not.
        environ: where ``torchrun`` and Slurm leave what they have started.

    Raises:
        UserError: arguments or environment contradict each other or are incomplete.
    """
    launcher, group = _find_started(environ)
    given = [f"--{x.replace('_', '-')}" for x in _OPTIONS if getattr(args, x) is not None]
    if group is None:
        return _group_to_start(args)
    if given:
        raise UserError(
            f"{launcher} has started this process as one of {group.world_size}, so "
            f"{', '.join(given)} cannot be given: leave it out, or start the tool without "
            f"{launcher}."
        )
    return group


def _group_to_start(args: argparse.Namespace) -> Group:
    chosen = {
        name: default if getattr(args, name) is None else getattr(args, name)
        for name, default in _OPTIONS.items()
    }
    machines, machine = chosen["num_machines"], chosen["machine_rank"]
    if machines < 1 or not 0 <= machine < machines:
        raise UserError(
            f"--machine-rank {machine} of --num-machines {machines}: machines are numbered from 0."
        )
    url = chosen["dist_url"]
    if url in (None, "auto") and machines > 1:
        raise UserError(
            "With several machines, --dist-url tcp://HOST:PORT must name machine 0 and a free port "
            "of it, the same on all machines."
        )
    address = re.fullmatch(r"(?:tcp://)([^/]+:\d+)/?", url or "")
    if url not in (None, "auto") and address is None:
        raise UserError(f"--dist-url is {url}, but must be tcp://HOST:PORT.")
    return Group(machines, machine, max(1, chosen["num_gpus"]), address[1] if address else "")


def _find_started(environ: Mapping[str, str]) -> tuple[str, Group | None]:
    if all(name in environ for name in _TORCHRUN):
        return "torchrun", _group_of_torchrun(environ)
    tasks = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    if "SLURM_PROCID" in environ and int(tasks) > 1:
        return "Slurm", _group_of_slurm(environ, int(tasks))
    return "", None


def _group_of_torchrun(environ: Mapping[str, str]) -> Group:
    rank, size, local_rank = (int(environ[x]) for x in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return _started_group(
        size=size,
        rank=rank,
        local_rank=local_rank,
        per_machine=int(environ.get("LOCAL_WORLD_SIZE", size)),
        address=f"{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}",
    )


def _group_of_slurm(environ: Mapping[str, str], size: int) -> Group:
    nodes = environ.get("SLURM_STEP_NODELIST", environ.get("SLURM_JOB_NODELIST"))
    hosts = expand_hosts(nodes or environ.get("SLURM_NODELIST", "127.0.0.1"))
    # Ports below 15000 are often taken; jobs that share a machine have other numbers.
    port = environ.get("MASTER_PORT", 15000 + int(environ.get("SLURM_JOB_ID", 0)) % 15000)
    return _started_group(
        size=size,
        rank=int(environ["SLURM_PROCID"]),
        local_rank=int(environ["SLURM_LOCALID"]),
        per_machine=max(1, size // len(hosts)),
        address=f"{environ.get('MASTER_ADDR', hosts[0])}:{port}",
    )


def _started_group(
    *, size: int, rank: int, local_rank: int, per_machine: int, address: str
) -> Group:
    if size % per_machine or rank % per_machine != local_rank:
        raise UserError(
            f"Process {rank} of {size} is number {local_rank} on its machine, which has "
            f"{per_machine}: every machine must run as many processes, numbered one machine after "
            "the other."
        )
    return Group(size // per_machine, rank // per_machine, per_machine, address, local_rank)


def expand_hosts(nodes: str) -> list[str]:
    """Return the hosts of Slurm's list of nodes, such as ``gpu[03-05,9],cpu1``."""
    hosts = []
    for pattern in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        parts = re.fullmatch(r"([^\[]*)(?:\[(.*?)\](.*))?", pattern)
        assert parts is not None  # every bracket of a found pattern is closed
        before, numbers, after = parts.groups()
        for part in (numbers or "").split(","):
            first, _, last = part.partition("-")
            spread = range(int(first), int(last) + 1) if last else [first]
            names = [f"{before}{number:0>{len(first)}}" for number in spread]
            hosts += [name + rest for name in names for rest in expand_hosts(after or "") or [""]]
    return hosts
