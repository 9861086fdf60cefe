"""Curves of trainings: losses, AP, errors, learning rate, time, gradients and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2detr.errors import UserError
from d2detr.files import make_folder, replacing
from d2detr.visualization.run_metrics import Curve, RunMetrics, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# Of Okabe and Ito, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ((0, (4, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)))  # of the first, second, third dataset
_MARKERS = "os^Dv"
_POINTS_SHOWN = 40  # windows of smoothing that fit into a curve


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        key: what users call it.
        title: with the unit.
        names: the curves in it, as a regular expression of their whole names.
        layers: the same for the decoder's earlier layers; "" if there are none.
        is_smoothed: whether the curves are noisy.
        is_log: whether values are compared by their ratio.
        factor: from what is logged to the unit of the title.
    """

    key: str
    title: str
    names: str
    layers: str = ""
    is_smoothed: bool = True
    is_log: bool = False
    factor: float = 1.0


PANELS = (
    Panel("loss", "Total loss", "total_loss"),
    Panel("ap", "AP and PQ (%)", r".+/(AP|PQ)", is_smoothed=False),
    Panel("class", "Classification loss", "loss_ce", r"loss_ce_(\d+)"),
    Panel("l1", "L1 loss of boxes", "loss_bbox", r"loss_bbox_(\d+)"),
    Panel("giou", "GIoU loss of boxes", "loss_giou", r"loss_giou_(\d+)"),
    Panel("mask", "Focal loss of masks", "loss_mask"),
    Panel("dice", "Dice loss of masks", "loss_dice"),
    Panel("class_error", "Class error (% of matched queries)", "class_error"),
    Panel("cardinality", "Cardinality error (objects per image)", "cardinality_error"),
    Panel("lr", "Learning rate", "lr", is_smoothed=False, is_log=True),
    Panel("gradient", "Gradient norm before clipping", "grad_norm", is_log=True),
    Panel("time", "Time per iteration (s)", "time"),
    Panel("memory", "Most memory so far (GB)", "max_mem_mb", is_smoothed=False, factor=1 / 1024),
    Panel("class_dn", "Classification loss, denoising", "loss_ce_dn", r"loss_ce_dn_(\d+)"),
    Panel("l1_dn", "L1 loss, denoising", "loss_bbox_dn", r"loss_bbox_dn_(\d+)"),
    Panel("giou_dn", "GIoU loss, denoising", "loss_giou_dn", r"loss_giou_dn_(\d+)"),
    Panel("class_enc", "Classification loss, proposals", "loss_ce_enc"),
    Panel("l1_enc", "L1 loss, proposals", "loss_bbox_enc"),
    Panel("giou_enc", "GIoU loss, proposals", "loss_giou_enc"),
)
PANEL_KEYS = tuple(panel.key for panel in PANELS)
_ALWAYS = ("loss", "ap")


def plot_runs(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    layers: bool = False,
    panels: Sequence[str] = (),
    iterations_per_epoch: float | None = None,
) -> None:
    """Draw what trainings have logged, several in one picture.

    Solid lines are of training and dashed ones of validation. Noisy values are faint behind their
    moving average; those that are NaN or infinite are crosses at the lower edge.

    Args:
        paths: of the runs, see :func:`read_run`.
        output: the picture; its suffix must be one of ``FORMATS``.
        layers: draw the losses of the decoder's earlier layers, too.
        panels: keys of the diagrams to draw; without any, all that have curves.
        iterations_per_epoch: draw over epochs, of so many iterations where a run counts these.

    Raises:
        UserError: a run cannot be read, the format is unknown, or runs that count iterations and
            runs that count epochs cannot be compared.
    """
    output = Path(output)
    suffix = output.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UserError(f"--output {output} must end in one of .{', .'.join(FORMATS)}.")
    runs = _in_one_unit([read_run(path) for path in paths], iterations_per_epoch)
    figure = draw_runs(dict(zip(label_runs(runs), runs, strict=True)), layers=layers, panels=panels)
    make_folder(output.parent)
    with replacing(output) as partial:
        figure.savefig(partial, format=suffix, dpi=100)


def draw_runs(
    runs: dict[str, RunMetrics], *, layers: bool = False, panels: Sequence[str] = ()
) -> Figure:
    """Draw runs that count the same unit, by the names that the legend shall give them."""
    from matplotlib.figure import Figure

    chosen = [x for x in panels_of(list(runs.values())) if not panels or x.key in panels]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure((4.4 * columns, 3.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    end = max(curve.x[-1] for run in runs.values() for curve in _all_curves(run))
    for panel, axes in zip(chosen, grid, strict=False):
        _draw_panel(axes, panel, runs, layers=layers)
        if axes.lines and end > 0:
            axes.set_xlim(-0.02 * end, 1.02 * end)
    for axes in grid[len(chosen) :]:
        axes.set_axis_off()
    _add_legend(figure, runs, layers=layers)
    return figure


def _in_one_unit(runs: list[RunMetrics], iterations_per_epoch: float | None) -> list[RunMetrics]:
    counting = [run for run in runs if run.unit == "iteration"]
    if iterations_per_epoch is None:
        if not counting or len(counting) == len(runs):
            return runs
        other = next(run for run in runs if run.unit == "epoch")
        raise UserError(
            f"{counting[0].path} counts iterations and {other.path} counts epochs: add "
            "--iterations-per-epoch, the number of training images divided by "
            "SOLVER.IMS_PER_BATCH."
        )
    return [run.in_epochs(iterations_per_epoch) if run.unit == "iteration" else run for run in runs]


def label_runs(runs: list[RunMetrics]) -> list[str]:
    """Name runs by their folders, which get numbers where that is not enough."""
    names = [run.path.resolve().parent.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{number}: {run.path.parent}"
        for number, (name, run) in enumerate(zip(names, runs, strict=True), start=1)
    ]


def panels_of(runs: Sequence[RunMetrics]) -> list[Panel]:
    """The panels that have curves; losses of other models get one each."""
    parts = [curves for run in runs for curves in (run.training, *run.validation.values())]
    names = list(dict.fromkeys(name for part in parts for name in part))

    def has(pattern: str) -> bool:
        return any(re.fullmatch(pattern, name) for name in names)

    found = [panel for panel in PANELS if panel.key in _ALWAYS or has(panel.names)]
    known = "|".join(pattern for x in PANELS for pattern in (x.names, x.layers) if pattern)
    others = [
        name
        for name in names
        if name.startswith("loss") and not re.fullmatch(f"{known}|.*_unscaled", name)
    ]
    return [*found[:2], *(Panel(name, name, re.escape(name)) for name in others), *found[2:]]


def _draw_panel(axes: Axes, panel: Panel, runs: dict[str, RunMetrics], *, layers: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    datasets = datasets_of(runs)
    values: list[float] = []
    for run, colour in zip(runs.values(), colours(len(runs)), strict=True):
        parts: list[tuple[str | tuple, dict[str, Curve]]] = [("-", run.training)]
        for dataset, curves in run.validation.items():
            place = datasets.index(dataset) if dataset else 0
            parts.append((_DASHES[place % len(_DASHES)], curves))
        for style, curves in parts:
            for name, strength in curves_of(panel, curves, layers and style == "-"):
                y = curves[name].y * panel.factor
                values += _draw_curve(
                    axes,
                    Curve(curves[name].x, y),
                    colour=colour,
                    style=style,
                    window=smoothing_window(len(y)) if panel.is_smoothed and style == "-" else 1,
                    marker=_marker(panel, name) if style != "-" or len(y) == 1 else "",
                    strength=strength,
                )
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel(next(iter(runs.values())).unit, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    _scale(axes, panel, values)
    if not values:
        missing = "no evaluation yet" if panel.key == "ap" else "not logged"
        text = "only NaN or infinite" if axes.lines else missing
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="0.4")
        axes.set(xticks=[], yticks=[])


def curves_of(panel: Panel, curves: dict[str, Curve], layers: bool) -> list[tuple[str, float]]:
    """Names of a panel's curves, the first decoder layer's first, and how strongly to draw them."""
    last = [(name, 1.0) for name in curves if re.fullmatch(panel.names, name)]
    if not (layers and panel.layers):
        return last
    earlier = sorted(
        (int(match[1]), name) for name in curves if (match := re.fullmatch(panel.layers, name))
    )
    strengths = np.linspace(0.25, 0.8, len(earlier))
    return [*((name, x) for (_, name), x in zip(earlier, strengths, strict=True)), *last]


def _draw_curve(
    axes: Axes,
    curve: Curve,
    *,
    colour: str,
    style: str | tuple,
    window: int,
    marker: str,
    strength: float,
) -> list[float]:
    """Draw one curve; returns its finite values, as they are after smoothing."""
    finite = np.isfinite(curve.y)
    y = np.where(finite, curve.y, np.nan)
    if window > 1 and strength == 1:
        axes.plot(curve.x, y, color=colour, alpha=0.22, linewidth=0.8)
    smooth = moving_average(y, window)
    axes.plot(
        curve.x,
        smooth,
        color=colour,
        alpha=strength,
        linestyle=style,
        linewidth=1.7 if strength == 1 else 1.1,
        marker=marker,
        markersize=4 if len(smooth) <= _POINTS_SHOWN // 2 else 2.5,
    )
    if not finite.all():
        faults, edge = curve.x[~finite], axes.get_xaxis_transform()
        height = np.full(len(faults), 0.02)
        axes.plot(faults, height, "x", color=colour, markersize=5, alpha=0.7, transform=edge)
    return smooth[np.isfinite(smooth)].tolist()


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of each value and its neighbours, ``window`` of them but at the ends.

    NaN is left out of the means, and stays NaN.
    """
    if window == 1:
        return values
    kernel, finite = np.ones(window), np.isfinite(values)
    sums = np.convolve(np.where(finite, values, 0.0), kernel, "same")
    counts = np.convolve(finite.astype(float), kernel, "same")
    return np.where(finite, sums / np.maximum(counts, 1), np.nan)


def smoothing_window(num_points: int) -> int:
    """How many points to average: an odd number, so that the mean is not shifted."""
    return min(num_points // _POINTS_SHOWN // 2 * 2 + 1, num_points)


def _marker(panel: Panel, name: str) -> str:
    kinds = ("bbox/AP", "segm/AP", "panoptic_seg/PQ")
    return _MARKERS[kinds.index(name) if panel.key == "ap" and name in kinds else 0]


def _scale(axes: Axes, panel: Panel, values: list[float]) -> None:
    """Choose a scale in which a few extreme values do not hide the others."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    if not values:
        return
    if panel.is_log and min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(min(values), max(values))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        low, high = min(0.0, *values), max(0.0, *values)
        if low == 0:
            high = min(high, 5 * float(np.percentile(values, 90)))
        axes.set_ylim(1.05 * low, 1.05 * high if high or low else 1)


def log_ticks(low: float, high: float) -> list[float]:
    """Return where to label a logarithmic axis, three times or more between two numbers if it can.

    Args:
        low: above 0.
        high: at least ``low``; where it is hardly more, one number is labelled.
    """
    if high < 1.1 * low:
        return [high]
    powers = range(math.floor(math.log10(low / 2)), math.ceil(math.log10(2 * high)))
    for steps in ("1", "1 2 5", "1 1.5 2 3 4 5 6 7 8 9"):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps.split()]
        if sum(low <= tick <= high for tick in ticks) >= 3:
            break
    return [tick for tick in ticks if low / 2 <= tick <= 2 * high]


def datasets_of(runs: dict[str, RunMetrics]) -> list[str]:
    """Return the datasets that runs name, in the order of their dashes."""
    named = [dataset for run in runs.values() for dataset in run.validation if dataset]
    return list(dict.fromkeys(named))


def colours(count: int) -> list[str]:
    """Return colours of so many runs."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(_COLOURS):
        return list(_COLOURS[:count])
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 0.95, count))]


def _add_legend(figure: Figure, runs: dict[str, RunMetrics], *, layers: bool) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=colour, linewidth=3, label=name)
        for name, colour in zip(runs, colours(len(runs)), strict=True)
    ]
    entries.append(Line2D([], [], color="0.3", label="training"))
    if layers:
        entries.append(Line2D([], [], color="0.3", alpha=0.4, label="earlier decoder layers"))
    datasets = datasets_of(runs)
    for number, style in enumerate(_DASHES[: max(1, len(datasets))]):
        name = f" ({datasets[number]})" if len(datasets) > 1 else ""
        entries.append(Line2D([], [], color="0.3", linestyle=style, label=f"validation{name}"))
    if any(_is_broken(run) for run in runs.values()):
        crosses = Line2D([], [], color="0.3", marker="x", linestyle="", label="NaN or infinite")
        entries.append(crosses)
    columns = max(1, min(len(entries), int(figure.get_figwidth() // 3)))
    figure.legend(handles=entries, loc="outside upper left", ncols=columns, frameon=False)


def _all_curves(run: RunMetrics) -> list[Curve]:
    return [curve for part in (run.training, *run.validation.values()) for curve in part.values()]


def _is_broken(run: RunMetrics) -> bool:
    parts = (run.training, *run.validation.values())
    panels = [panel.names for panel in PANELS]
    return any(
        not np.isfinite(curve.y).all()
        for part in parts
        for name, curve in part.items()
        if any(re.fullmatch(names, name) for names in panels)
    )
