"""What a comparison of trainings found: as data, as a table and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate

from d2detr.measure.learning import Point
from d2detr.measure.timing import describe_machine

_COLUMNS = 6

Curves = Mapping[tuple[str, int], Sequence[Point]]


def build_report(
    planned: Mapping[tuple[str, int], CfgNode],
    curves: Curves,
    *,
    seconds: float,
    targets: Sequence[float],
) -> dict[str, Any]:
    """Collect everything that was measured.

    Args:
        planned: the config of each training, by the contender's name and seed.
        curves: what each has learned, in order.
        seconds: CPU seconds of each training.
        targets: APs in percent whose time is asked for.

    Returns:
        Plain values, to be written as JSON.
    """
    first = next(iter(planned.values()))
    names = list(dict.fromkeys(name for name, _ in planned))
    return {
        "machine": describe_machine(torch.device("cpu")),
        "train": list(first.DATASETS.TRAIN),
        "test": first.DATASETS.TEST[0],
        "seconds": seconds,
        "different_inputs": _different_inputs(planned),
        "trainings": [
            {
                "name": name,
                "seed": seed,
                "config": cfg.dump(),
                "points": [asdict(point) for point in curves[name, seed]],
            }
            for (name, seed), cfg in planned.items()
        ],
        "seconds_to": {
            f"{target:g}": {
                name: [seconds_to(curve, target) for key, curve in curves.items() if key[0] == name]
                for name in names
            }
            for target in targets
        },
    }


def seconds_to(curve: Sequence[Point], target: float) -> float | None:
    """CPU seconds until an AP is reached for the first time, or None if it never is.

    Between two evaluations the AP is taken to grow linearly.
    """
    before = Point(0.0, 0, 0.0, 0.0)
    for point in curve:
        if point.ap >= target:
            share = (target - before.ap) / (point.ap - before.ap)
            return before.seconds + share * (point.seconds - before.seconds)
        before = point
    return None


def format_learning(report: dict[str, Any]) -> str:
    """Make a table of the AP over the CPU seconds and of the seconds to each target.

    Returns:
        Means, of several seeds with the lowest and the highest; and what the contenders do not see
        alike, in words.
    """
    names = list(dict.fromkeys(training["name"] for training in report["trainings"]))
    marks = [report["seconds"] * (k + 1) / _COLUMNS for k in range(_COLUMNS)]
    rows = []
    for name in names:
        curves = [x["points"] for x in report["trainings"] if x["name"] == name]
        values = [[_value_at(curve, mark) for curve in curves] for mark in marks]
        iterations = [curve[-1]["iteration"] for curve in curves if curve]
        rows.append(
            [name, statistics.mean(iterations or [0]), *map(_spread, values)]
            + [_spread(times[name]) for times in report["seconds_to"].values()]
        )
    headers = ["", "iterations", *(f"AP at {mark:.0f} s" for mark in marks)]
    headers += [f"s to AP {target}" for target in report["seconds_to"]]
    table = tabulate(rows, headers, floatfmt=".0f", stralign="right")
    title = f"{', '.join(report['train'])} -> {report['test']}, in CPU seconds of training"
    return "\n".join([title, table, *report["different_inputs"]])


def draw_learning(report: dict[str, Any], file: str | Path) -> None:
    """Draw the AP over the CPU seconds: a thin line for each seed, a thick one for their mean."""
    from matplotlib.figure import Figure  # matplotlib is slow to import

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(training["name"] for training in report["trainings"]))
    for number, name in enumerate(names):
        color = f"C{number}"
        curves = [x["points"] for x in report["trainings"] if x["name"] == name and x["points"]]
        lines = [[(0.0, 0.0), *((p["seconds"], p["ap"]) for p in curve)] for curve in curves]
        for line in lines:
            axes.plot(*zip(*line, strict=True), color=color, linewidth=0.8, alpha=0.4)
        # Seeds are evaluated at nearly the same seconds, so that the n-th points have a mean.
        means = [
            [statistics.mean(values) for values in zip(*points, strict=True)]
            for points in zip(*lines, strict=False)
        ]
        if means:
            axes.plot(*zip(*means, strict=True), color=color, linewidth=2.2, label=name)
    for target in report["seconds_to"]:
        axes.axhline(float(target), color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="CPU seconds of training", ylabel=f"box AP on {report['test']}")
    axes.set(xlim=(0, report["seconds"]), ylim=(0, None))
    axes.grid(alpha=0.25)
    if names:
        axes.legend(loc="lower right")
    figure.savefig(file)


def _different_inputs(planned: Mapping[tuple[str, int], CfgNode]) -> list[str]:
    """What the contenders do not see alike, in words."""
    by_name = {name: cfg for (name, _), cfg in planned.items()}
    (first_name, first), *others = by_name.items()
    ours, lines = _flat(first.INPUT, "INPUT"), []
    ours["SOLVER.IMS_PER_BATCH"] = first.SOLVER.IMS_PER_BATCH
    for name, cfg in others:
        theirs = _flat(cfg.INPUT, "INPUT")
        theirs["SOLVER.IMS_PER_BATCH"] = cfg.SOLVER.IMS_PER_BATCH
        lines += [
            f"{key} is {theirs[key]} for {name}, but {value} for {first_name}."
            for key, value in ours.items()
            if theirs[key] != value
        ]
    return lines


def _flat(node: CfgNode, prefix: str) -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        name = f"{prefix}.{key}"
        flat.update(_flat(value, name) if isinstance(value, CfgNode) else {name: value})
    return flat


def _value_at(points: list[dict[str, Any]], mark: float) -> float | None:
    """The AP at a mark, between two evaluations, if the training has come so far."""
    # The last slice ends an iteration after the mark, or when the training diverges before it.
    if not points or points[-1]["seconds"] < mark:
        return None
    seconds, aps = ([0.0, *(point[key] for point in points)] for key in ("seconds", "ap"))
    return float(np.interp(mark, seconds, aps))


def _spread(values: Sequence[float | None]) -> str:
    """The mean of values, with the lowest and the highest of several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 0 if max(known) > 100 else 1
    text = f"{statistics.mean(known):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(known):.{digits}f} to {max(known):.{digits}f})"
    if len(known) < len(values):
        text += f", {len(known)} of {len(values)}"
    return text
