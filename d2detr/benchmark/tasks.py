from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from d2detr.benchmark.data import describe_padding, our_mapping, peer_mapping
from d2detr.benchmark.evaluation import our_evaluation, peer_evaluation
from d2detr.benchmark.measure import (
    Step,
    Timing,
    alternate,
    describe_machine,
    measure_memory,
    ratio,
)
from d2detr.benchmark.networks import (
    our_inference,
    our_training,
    peer_inference,
    peer_training,
)
from d2detr.benchmark.parts import (
    our_losses,
    our_postprocessing,
    peer_losses,
    peer_postprocessing,
)
from d2detr.benchmark.workload import Workload

OURS = "d2detr"


@dataclass(frozen=True)
class Task:
    """What can be measured.

    Attributes:
        ours: builds our step.
        peers: build the same step of others, by name.
        describe: what else is worth to know of the work, for the report.
    """

    ours: Callable[[Workload], Step]
    peers: dict[str, Callable[[Workload], Step]]
    describe: Callable[[Workload], dict[str, Any]] = lambda workload: {}


TASKS = {
    "train": Task(our_training, {"huggingface": peer_training}),
    "eval": Task(our_inference, {"huggingface": peer_inference}),
    "criterion": Task(our_losses, {"huggingface": peer_losses}),
    "postprocess": Task(our_postprocessing, {"huggingface": peer_postprocessing}),
    "data": Task(our_mapping, {"huggingface": peer_mapping}, describe_padding),
    "evaluate": Task(our_evaluation, {"pycocotools": peer_evaluation}),
}


def run_benchmark(
    name: str, workload: Workload, *, compare: str = "", rounds: int = 10, warmup: int = 2
) -> dict[str, Any]:
    """Measure a task, and a peer in turn with it.

    Args:
        name: of :data:`TASKS`.
        workload: what is done.
        compare: a peer of the task, or "" for none.
        rounds: timed steps of each.
        warmup: untimed steps of each.

    Returns:
        A description that JSON can hold: the machine, the workload and, of every contender, the
        seconds and images per second of a step, memory in MiB and the first step's result.
    """
    task = TASKS[name]
    builders = {OURS: task.ours} | ({compare: task.peers[compare]} if compare else {})
    memory = {key: measure_memory(build, workload) for key, build in builders.items()}
    steps = {key: build(workload) for key, build in builders.items()}
    first = {key: _as_float(step()) for key, step in steps.items()}
    seconds = alternate(steps, rounds=rounds, warmup=warmup, device=workload.device)
    report = {
        "task": name,
        "machine": describe_machine(workload.device),
        "workload": workload.description() | task.describe(workload),
        "rounds": rounds,
        "contenders": {
            key: {
                "seconds": asdict(Timing.of(values)),
                "images_per_second": workload.batch / Timing.of(values).median,
                "memory_mib": asdict(memory[key]),
                "first_result": first[key],
            }
            for key, values in seconds.items()
        },
    }
    if compare:
        report["speed_ratio"] = asdict(ratio(seconds[OURS], seconds[compare]))
        report["memory_ratio"] = memory[OURS].peak / memory[compare].peak
    return report


def _as_float(result: Any) -> float | None:
    return result.double().mean().item() if isinstance(result, torch.Tensor) else None


def format_report(report: dict[str, Any]) -> str:
    """A table for people."""
    machine, workload = report["machine"], report["workload"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{report['task']}: {workload}",
        f"on {machine['gpu'] or machine['processor']}, {machine['threads']} threads; {versions}",
        f"{'':12} {'median':>10} {'quartiles':>19} {'images/s':>9} {'MiB':>9} {'grown':>7}  mean",
    ]
    for name, x in report["contenders"].items():
        time, memory = x["seconds"], x["memory_mib"]
        peak, before = memory["device_peak"], 0.0
        if peak is None:
            peak, before = memory["peak"], memory["before"]
        lines.append(
            f"{name:12} {1e3 * time['median']:7.1f} ms "
            f"{1e3 * time['low']:7.1f} - {1e3 * time['high']:6.1f} ms "
            f"{x['images_per_second']:9.2f} {peak:9.0f} {peak - before:7.0f}  "
            f"{x['first_result']:.6g}"
        )
    if "speed_ratio" in report:
        x = report["speed_ratio"]
        lines.append(
            f"{OURS} is {x['median']:.2f} times as fast ({x['low']:.2f} - {x['high']:.2f}) and "
            f"takes {report['memory_ratio']:.2f} times the memory."
        )
    return "\n".join(lines)
