"""Charts as plotly.js draws them; the page adds the colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.report.average_precision import KINDS, AveragePrecision
from d2detr.report.confusion import MOST_CLASSES, MOST_NUMBERS, most_confused
from d2detr.report.detections import SCORE_THRESHOLD, Calibration
from d2detr.visualization.curves import (
    Panel,
    colours,
    curves_of,
    datasets_of,
    log_ticks,
    moving_average,
    panels_of,
    smoothing_window,
)
from d2detr.visualization.run_metrics import Curve, RunMetrics

_DASHES = ("dash", "dashdot", "dot")
_MOST_POINTS = 400  # of a curve
_PRECISION_IOUS = {0: "IoU 0.50", 5: "IoU 0.75", 9: "IoU 0.95"}
_LONGEST_NAME = 24  # characters
_PLACES = 32  # cells of the map of places, in each direction


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: over it.
        data: plotly's traces.
        layout: plotly's.
        note: a sentence below it.
        is_wide: whether it takes the whole width of the page.
    """

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""
    is_wide: bool = False


def training_charts(runs: dict[str, RunMetrics]) -> list[Chart]:
    """Chart what runs have logged, as :func:`d2detr.visualization.plot_runs` does."""
    charts = [_panel(panel, runs) for panel in panels_of(list(runs.values()))]
    return [chart for chart in charts if chart.data]


def _panel(panel: Panel, runs: dict[str, RunMetrics]) -> Chart:
    datasets, traces = datasets_of(runs), []
    for (run_name, run), colour in zip(runs.items(), colours(len(runs)), strict=True):
        prefix = f"{run_name}: " if len(runs) > 1 else ""
        for name, _ in curves_of(panel, run.training, False):
            curve = _scaled(run.training[name], panel.factor)
            window = smoothing_window(len(curve.x)) if panel.is_smoothed else 1
            if window > 1:
                traces.append({**_line(curve), "line": {"color": colour, "width": 1}})
                traces[-1] |= {"opacity": 0.3, "hoverinfo": "skip"}
            smooth = Curve(curve.x, moving_average(_finite(curve.y), window))
            traces.append({**_line(smooth), "line": {"color": colour}, "name": f"{prefix}{name}"})
        for dataset, curves in run.validation.items():
            dash = _DASHES[(datasets.index(dataset) if dataset else 0) % len(_DASHES)]
            for name, _ in curves_of(panel, curves, False):
                line = {"color": colour, "dash": dash}
                label = f"{prefix}{dataset} {name}".strip()
                curve = _scaled(curves[name], panel.factor)
                traces.append({**_line(curve), "line": line, "name": label})
                traces[-1] |= {"mode": "lines+markers"}
    unit = next(iter(runs.values())).unit
    named = [trace for trace in traces if "name" in trace]
    for trace in named:
        trace["showlegend"] = len(named) > 1
    layout = {
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "yaxis": _log_axis(traces) if panel.is_log else {"rangemode": "tozero"},
    }
    return Chart(panel.title, traces, layout)


def _log_axis(traces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [y for trace in traces for y in trace["y"] if y is not None and y > 0]
    ticks = log_ticks(min(values), max(values)) if values else []
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def precision_recall(found: AveragePrecision) -> Chart:
    """Chart precision over recall: of all classes at several IoUs, of each class at IoU 0.5."""
    recalls = np.linspace(0, 1, 101)
    traces = [
        {**_line(Curve(recalls, found.curve(iou))), "name": name, "showlegend": True}
        for iou, name in _PRECISION_IOUS.items()
    ]
    for label in np.argsort(-found.num_objects, kind="stable")[:MOST_CLASSES].tolist():
        if found.num_objects[label]:
            trace = {**_line(Curve(recalls, found.curve(0, label))), "line": {"dash": "dot"}}
            hidden = {"visible": "legendonly", "showlegend": True}
            traces.append({**trace, **hidden, "name": _short(found.class_names[label])})
    return Chart(
        f"Precision over recall of {KINDS[found.kind]}",
        traces,
        {
            "xaxis": {"title": {"text": "recall"}, "range": [0, 1.02]},
            "yaxis": {"title": {"text": "precision"}, "range": [0, 1.02]},
            "height": 320 + 8 * min(len(traces), MOST_CLASSES),
        },
        note="Classes, at IoU 0.5, are switched on by a click on their name.",
    )


def confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Chart:
    """Chart a matrix of :func:`d2detr.report.confusion.confusion_matrix`.

    Of many classes, those that are most often confused are shown, and the rest added up.
    """
    note = "Numbers of objects; colours are shares of a row."
    if len(class_names) > MOST_CLASSES:
        note += (
            f" Of {len(class_names)} classes the {MOST_CLASSES} with the most mistakes are shown."
        )
    matrix, names = most_confused(matrix, class_names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # Names may be the same, so cells have numbers as their places.
    x, y = [*names, "(missed)"], [*names, "(background)"]
    places = list(range(len(x)))
    counts = matrix.tolist()
    trace = {
        "type": "heatmap",
        "z": rounded(shares),
        "text": counts,
        "customdata": [[[row, column] for column in x] for row in y],
        "hovertemplate": "truth %{customdata[0]}<br>predicted %{customdata[1]}<br>%{text}"
        "<extra></extra>",
        "colorscale": [[0, "rgba(0,114,178,0)"], [1, "rgba(0,114,178,0.75)"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
    }
    if len(names) <= MOST_NUMBERS:
        trace["texttemplate"] = "%{text}"
    axis = {"tickmode": "array", "tickvals": places, "showgrid": False, "zeroline": False}
    layout: dict[str, Any] = {
        "xaxis": {**axis, "title": {"text": "predicted"}, "tickangle": -45},
        "yaxis": {**axis, "title": {"text": "truth"}, "autorange": "reversed"},
        "height": 300 + 14 * len(x),
    }
    for name, texts in (("xaxis", x), ("yaxis", y)):
        layout[name]["ticktext"] = [_short(text) for text in texts]
    return Chart("Confusion of classes", [trace], layout, note, is_wide=len(names) > MOST_NUMBERS)


def calibration(found: Calibration) -> Chart:
    """Chart how often detections are right, over their score."""
    bars = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": rounded(found.scores),
        "y": rounded(found.precision),
        "name": "detections",
        "text": [f"{count:,} detections" for count in found.counts.tolist()],
        "marker": {"size": _sizes(found.counts)},
    }
    ideal: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "name": "ideal",
    }
    ideal |= {"line": {"dash": "dot", "width": 1}, "hoverinfo": "skip"}
    layout = {
        "xaxis": {"title": {"text": "score"}, "range": [0, 1.02]},
        "yaxis": {"title": {"text": "share that finds an object"}, "range": [0, 1.02]},
    }
    note = (
        f"The mean difference of score and share that is right is {found.error:.3f}. Below the "
        "dotted line scores promise too much."
    )
    return Chart("Calibration of scores", [bars, ideal], layout, note)


def counts_of_kinds(kinds: dict[str, int]) -> Chart:
    """Chart how many mistakes there are of each kind."""
    names = [kind.replace("_", " ") for kind in kinds]
    counts = list(kinds.values())
    trace: dict[str, Any] = {"type": "bar", "x": names, "y": counts, "text": counts}
    trace |= {"textposition": "outside", "cliponaxis": False}
    note = f"In all images, among detections with a score of {SCORE_THRESHOLD:g} or more."
    return Chart("Kinds of mistakes", [trace], {}, note)


def dataset_charts(table: AnnotationTable) -> list[Chart]:
    """Chart the objects of a dataset: classes, sizes, places and numbers per image."""
    counts = table.objects_per_class
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    classes = _histogram("Objects of each class", "class", [*range(len(order))], counts[order])
    classes.layout["xaxis"] |= {
        "tickmode": "array",
        "tickvals": [*range(len(order))],
        "ticktext": [_short(str(table.class_names[label])) for label in order],
    }
    if len(counts) > len(order):
        note = f"The {len(order)} largest of {len(counts)} classes."
        classes = replace(classes, note=note, is_wide=True)
    per_image = np.bincount(table.objects_per_image)
    charts = [
        classes,
        _histogram("Objects in an image", "objects", [*range(len(per_image))], per_image),
    ]
    usable = ~table.crowd & ~table.degenerate & np.isfinite(table.image_sizes).all(axis=1)
    if not usable.any():
        return charts
    boxes, sizes = table.clipped[usable], table.image_sizes[usable]
    relative = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / sizes).prod(axis=1))
    shares, edges = np.histogram(relative, bins=25, range=(0, 1))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / sizes
    places, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], bins=_PLACES, range=[[0, 1]] * 2)
    axis = {"range": [0, 1], "zeroline": False, "showgrid": False}
    heat = {
        "type": "heatmap",
        "z": places.astype(int).tolist(),
        "x0": 0.5 / _PLACES,
        "dx": 1 / _PLACES,
        "y0": 0.5 / _PLACES,
        "dy": 1 / _PLACES,
        "colorscale": "Viridis",
        "showscale": False,
        "hovertemplate": "%{z} centres<extra></extra>",
    }
    layout = {
        "xaxis": {**axis, "title": {"text": "from left to right"}},
        "yaxis": {**axis, "range": [1, 0], "title": {"text": "from top to bottom"}},
    }
    return [
        *charts,
        _histogram(
            "Size of boxes", "√(area of the box / area of the image)", edges[:-1] + 0.02, shares
        ),
        Chart("Where the centres of boxes are", [heat], layout),
    ]


def _histogram(title: str, unit: str, x: Any, counts: np.ndarray) -> Chart:
    trace = {"type": "bar", "x": rounded(x), "y": counts.tolist()}
    layout = {"xaxis": {"title": {"text": unit}}, "bargap": 0.08}
    return Chart(title, [trace], layout)


def _line(curve: Curve) -> dict[str, Any]:
    step = -(-len(curve.x) // _MOST_POINTS)
    # The last point is always one of those that stay.
    chosen = slice((len(curve.x) - 1) % step, None, step)
    x, y = rounded(curve.x[chosen]), rounded(curve.y[chosen])
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "showlegend": False} | (
        {"mode": "markers"} if len(x) == 1 else {}
    )


def _scaled(curve: Curve, factor: float) -> Curve:
    return Curve(curve.x, curve.y * factor)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _short(name: str) -> str:
    """A name that leaves a chart its room."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _sizes(counts: np.ndarray) -> list[float]:
    return (6 + 14 * np.sqrt(counts / max(1, counts.max()))).round(1).tolist()


def rounded(values: Any) -> Any:
    """Return nested lists of five significant digits, None for what is not finite."""
    array = np.asarray(values, dtype=float)
    if array.ndim > 1:
        return [rounded(row) for row in array]
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in array.tolist()]
