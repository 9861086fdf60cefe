"""How OpenMP's threads shall wait: a step under several settings, alone and beside others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from tabulate import tabulate

from d2detr.measure.tasks import TASKS
from d2detr.measure.timing import Timing, alternate
from d2detr.measure.workload import Workload

# What decides how many threads there are, and how they wait.
VARIABLES = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def compare_waiting(
    task: str,
    workload: dict[str, Any],
    ways: Mapping[str, Mapping[str, str]],
    *,
    rounds: int,
    neighbours: int,
) -> dict[str, Timing]:
    """Time a task's step in turn in one process for each way to wait.

    OpenMP reads its variables when a process loads it, so that each way needs a process.

    Args:
        task: of :data:`d2detr.measure.TASKS`.
        workload: arguments of :class:`Workload`.
        ways: values of :data:`VARIABLES` by a name of the way; what is not named is unset.
        rounds: timed steps of each.
        neighbours: other processes, each of which keeps a core busy all the time.

    Returns:
        Seconds of a step, by the name of the way.
    """
    context = get_context("spawn")
    processes, steps = [], {}
    try:
        for name, values in ways.items():
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, task, workload), daemon=True)
            with _environment(values):
                process.start()
            theirs.close()  # so that the end of the process is noticed here
            processes.append(process)
            steps[name] = _remote_step(ours)
        for _ in range(neighbours):
            processes.append(context.Process(target=_keep_busy, daemon=True))
            processes[-1].start()
        device = Workload(**workload).device
        seconds = alternate(steps, rounds=rounds, warmup=3, device=device)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return {name: Timing.of(values) for name, values in seconds.items()}


def format_comparison(timings: Mapping[str, Mapping[str, Timing]]) -> str:
    """Return a table of medians and quartiles in milliseconds, with a column for each situation."""
    ways = next(iter(timings.values()))
    rows = [
        [way, *(_in_milliseconds(of_ways[way]) for of_ways in timings.values())] for way in ways
    ]
    return tabulate(rows, headers=("ms per step: median (quartiles)", *timings))


def _in_milliseconds(timing: Timing) -> str:
    return f"{timing.median * 1e3:.0f} ({timing.low * 1e3:.0f} - {timing.high * 1e3:.0f})"


def _serve(connection: Connection, task: str, workload: dict[str, Any]) -> None:
    step = TASKS[task].ours(Workload(**workload))
    while True:
        connection.recv()
        step()
        connection.send(None)


def _remote_step(connection: Connection) -> Callable[[], None]:
    def step() -> None:
        connection.send(None)
        connection.recv()

    return step


def _keep_busy() -> None:
    while True:
        pass


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
