"""Timing contenders side by side, and the memory of each in a process of its own."""

import gc
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], Any]

_PACKAGES = ("d2detr", "torch", "torchvision", "transformers", "timm", "faster-coco-eval")
_MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, over all rounds.

    Attributes:
        mean: of all rounds, as published tables state it.
        median: the typical round.
        low: a quarter of the rounds was faster.
        high: a quarter of the rounds was slower.
    """

    mean: float
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Timing":
        if len(values) == 1:
            values = values * 2
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(mean=statistics.mean(values), median=median, low=low, high=high)


@dataclass(frozen=True)
class Memory:
    """What a process with one contender held, in MiB.

    Attributes:
        before: resident memory of the process before the first step.
        peak: its highest resident memory.
        device_peak: the most that torch had allocated on the GPU; None without one.
    """

    before: float
    peak: float
    device_peak: float | None = None


def alternate(
    steps: Mapping[str, Step], *, rounds: int, warmup: int, device: torch.device
) -> dict[str, list[float]]:
    """Time steps in turn, so that a neighbour's load or a warm processor meets all of them.

    Args:
        steps: by the contender's name.
        rounds: timed rounds of each; those of a short step repeat it.
        warmup: untimed calls of each before.
        device: waited for before a clock is read.

    Returns:
        Seconds of every round, by name.
    """
    repeats = {name: _repeats(step, warmup) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for _ in range(rounds):
        for name in names:
            gc.collect()  # what the last one left
            _synchronize(device)
            start = time.perf_counter()
            for _ in range(repeats[name]):
                steps[name]()
            _synchronize(device)
            seconds[name].append((time.perf_counter() - start) / repeats[name])
        names.reverse()  # so that none always follows the same other
    return seconds


def _repeats(step: Step, warmup: int) -> int:
    """Warm up; returns how often a round shall repeat the step to take a tenth of a second."""
    for _ in range(warmup):
        start = time.perf_counter()
        step()
        duration = time.perf_counter() - start
    return max(1, int(0.1 / duration)) if warmup else 1


def ratio(ours: list[float], theirs: list[float]) -> Timing:
    """How many times faster ``ours`` is, round by round."""
    return Timing.of([b / a for a, b in zip(ours, theirs, strict=True)])


def measure_memory(build: Callable[..., Step], *args: Any, steps: int = 2) -> Memory:
    """Run ``build(*args)`` and a few of the steps it returns in a fresh process.

    Args:
        build: importable by name, for the process is spawned.
        args: what it is called with; picklable.
        steps: how many.
    """
    threads = torch.get_num_threads()
    # Not multiprocessing's Pool, which waits for ever for an exception that cannot be unpickled.
    pool = ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,))
    with pool:
        return pool.submit(_run_and_measure, build, args, steps).result()


def _run_and_measure(build: Callable[..., Step], args: tuple, steps: int) -> Memory:
    step = build(*args)
    before = _resident_mib()
    for _ in range(steps):
        step()
    device_peak = None
    if torch.cuda.is_available():
        device_peak = torch.cuda.max_memory_allocated() / _MIB
    return Memory(before, _resident_mib("VmHWM"), device_peak)


def _resident_mib(field: str = "VmRSS") -> float:
    """Resident memory of this process; field "VmHWM" is its highest since the start."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) / 1024
    # Elsewhere only the peak is known; on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (_MIB if sys.platform == "darwin" else 1024)


def profile_step(step: Step, *, rows: int = 20) -> str:
    """A table of the operators that take the most time, over three steps after a first."""
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(3):
            step()
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=48)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions, without which a figure means nothing."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
