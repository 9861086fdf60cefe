from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from d2detr.measure.deformable import our_deformable_attention, peer_deformable_attention
from d2detr.measure.evaluating import our_evaluation, peer_evaluation
from d2detr.measure.mapping import describe_padding, our_mapping, peer_mapping
from d2detr.measure.networks import (
    our_backbone,
    our_inference,
    our_training,
    peer_inference,
    peer_training,
)
from d2detr.measure.parts import (
    our_losses,
    our_postprocessing,
    peer_losses,
    peer_postprocessing,
)
from d2detr.measure.step_counts import count
from d2detr.measure.timing import (
    Step,
    Timing,
    alternate,
    describe_machine,
    measure_memory,
    ratio,
)
from d2detr.measure.workload import Workload

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
    # What folding, fusing and the layout of the backbone are worth.
    "backbone": Task(
        our_backbone,
        {
            "unfolded": partial(our_backbone, plain=True),
            "channels-first": partial(our_backbone, channels_last=False),
            "detectron2": partial(our_backbone, plain=True, channels_last=False),
        },
    ),
    # A decoder's: NUM_OBJECT_QUERIES queries look around their boxes; and an encoder's: all cells.
    "deformable_attention": Task(
        our_deformable_attention, {"huggingface": peer_deformable_attention}
    ),
    "deformable_self_attention": Task(
        partial(our_deformable_attention, of_cells=True),
        {"huggingface": partial(peer_deformable_attention, of_cells=True)},
    ),
    "data": Task(our_mapping, {"huggingface": peer_mapping}, describe_padding),
    "evaluate": Task(our_evaluation, {"pycocotools": peer_evaluation}),
}


def run_benchmark(
    name: str,
    workload: Workload,
    *,
    compare: str = "",
    rounds: int = 10,
    warmup: int = 2,
    with_memory: bool = True,
) -> dict[str, Any]:
    """Measure a task, and a peer in turn with it.

    Args:
        name: of :data:`TASKS`.
        workload: what is done.
        compare: a peer of the task, or "" for none.
        rounds: timed steps of each.
        warmup: untimed steps of each.
        with_memory: measure that too, in one more process for each.

    Returns:
        A description that JSON can hold: the machine, the workload and, of every contender, the
        seconds and images per second of a step, memory in MiB, the first step's result and what a
        step counts (not of compiled models).
    """
    task = TASKS[name]
    builders = {OURS: task.ours} | ({compare: task.peers[compare]} if compare else {})
    memory = {}
    if with_memory:
        memory = {key: measure_memory(build, workload) for key, build in builders.items()}
    steps = {key: build(workload) for key, build in builders.items()}
    first = {key: _as_float(step()) for key, step in steps.items()}
    counts = {key: asdict(count(step)) for key, step in steps.items() if not workload.compile}
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
                "first_result": first[key],
                "counts": counts.get(key),
                **({"memory_mib": asdict(memory[key])} if with_memory else {}),
            }
            for key, values in seconds.items()
        },
    }
    if compare:
        report["speed_ratio"] = asdict(ratio(seconds[OURS], seconds[compare]))
    return report


def _as_float(result: Any) -> float | None:
    return result.double().mean().item() if isinstance(result, torch.Tensor) else None


def format_report(report: dict[str, Any]) -> str:
    """Describe a report of :func:`run_benchmark` for people."""
    machine = report["machine"]
    settings = ", ".join(
        f"{key} {value}" for key, value in report["workload"].items() if value not in ("", [])
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{report['task']}: {settings}",
        f"on {machine['gpu'] or machine['processor']}, {machine['threads']} threads; {versions}",
        tabulate(
            [_row(name, x) for name, x in report["contenders"].items()],
            headers=(
                *("", "mean ms", "median", "quartiles", "images/s", "peak MiB (grown by)"),
                *("operators", "first result"),
            ),
            floatfmt=("", ".2f", ".2f", "", ".2f", "", "", ".6g"),
        ),
    ]
    if "speed_ratio" in report:
        x = report["speed_ratio"]
        lines.append(
            f"d2detr is {x['median']:.2f} ({x['low']:.2f} - {x['high']:.2f}) times as fast."
        )
    return "\n".join(lines)


def _row(name: str, contender: dict[str, Any]) -> tuple:
    time = {key: 1e3 * value for key, value in contender["seconds"].items()}
    return (
        name,
        time["mean"],
        time["median"],
        f"{time['low']:.2f} - {time['high']:.2f}",
        contender["images_per_second"],
        _format_memory(contender.get("memory_mib")),
        (contender["counts"] or {}).get("operators"),
        contender["first_result"],
    )


def _format_memory(memory: dict[str, float] | None) -> str:
    if memory is None:
        return "-"
    if memory["device_peak"] is not None:
        return f"{memory['device_peak']:.0f} of the GPU"
    return f"{memory['peak']:.0f} ({memory['peak'] - memory['before']:.0f})"
