"""Attention over an image, as DETR's paper shows it: figures 3 (encoder) and 6 (decoder)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2detr.files import make_folder, replacing
from d2detr.visualization.explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUM_POINTS = 4
_MOST_DETECTIONS = 8
_COLUMNS = 4
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")


def draw_encoder_attention(explanation: Explanation, output: str | Path) -> None:
    """Draw what the last encoder layer attends to from the centres of the best detections.

    Heads are averaged. Points between the centre and the corners stand in for missing detections.
    """
    encoder = explanation.attention.encoder
    figure, panels = _panels(explanation, 1 + _NUM_POINTS if len(encoder) else 1, 1 + _NUM_POINTS)
    if not len(encoder):
        figure.suptitle("The model has no encoder layers.", parse_math=False)
        _show_image(panels[0], explanation)
    else:
        weights = encoder[-1].mean(0)
        size = np.array(explanation.attention.size)
        points = _points(explanation)
        _show_image(panels[0], explanation)
        figure.suptitle("Encoder self-attention of the last layer, from the marked points")
        for axes, point, colour in zip(panels[1:], points, _COLOURS, strict=False):
            row, column = (point / size * weights.shape[:2]).astype(int)
            _show_weights(axes, explanation, weights[row, column])
            for shown in (panels[0], axes):
                shown.plot(point[1], point[0], "o", color=colour, markersize=9, mec="white")
    _save(figure, output)


def draw_decoder_attention(explanation: Explanation, output: str | Path) -> None:
    """Draw what the last decoder layer attends to for each of the best detections.

    Heads are averaged. Dashed is the place that a query's last box started from. Points are what
    deformable attention samples, the larger the more it counts. A second picture of each detection
    shows the maps of the mask head, if there is one.
    """
    attention = explanation.attention
    queries = explanation.queries[:_MOST_DETECTIONS]
    maps = [("", attention.decoder[-1].mean(0))]
    if attention.masks is not None:
        maps.append(("mask head: ", attention.masks.mean(1)))
    figure, panels = _panels(explanation, max(1, len(queries) * len(maps)), _COLUMNS)
    if not queries:
        figure.suptitle(explanation.nothing_found)
        _show_image(panels[0], explanation)
    else:
        left_out = len(explanation.queries) - len(queries)
        rest = f"; {left_out} more are left out" if left_out else ""
        figure.suptitle(f"Decoder attention of the last layer{rest}")
    shown = ((place, query, *each) for place, query in enumerate(queries) for each in maps)
    for axes, (place, query, kind, weights) in zip(panels, shown, strict=False):
        _show_weights(axes, explanation, weights[query])
        colour = _COLOURS[place % len(_COLOURS)]
        if attention.references is not None:
            _draw_place(axes, attention.references[-1, query], colour, linestyle="--")
        _draw_place(axes, attention.boxes[-1, query], colour, linestyle="-")
        if attention.samples is not None and not kind:
            _draw_samples(axes, attention.samples[-1, :, query], attention.size)
        axes.set_title(kind + explanation.label(query), fontsize=10, parse_math=False)
    _save(figure, output)


def _points(explanation: Explanation) -> np.ndarray:
    """Rows and columns in pixels, inside of the image."""
    size = np.array(explanation.attention.size)
    corners = explanation.attention.boxes[-1, explanation.queries[:_NUM_POINTS]]
    centres = (corners[:, :2] + corners[:, 2:])[:, ::-1] / 2
    others = size * [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]
    return np.concatenate((centres, others))[:_NUM_POINTS].clip(0, size - 1)


def _panels(explanation: Explanation, count: int, columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    height, width = explanation.attention.size
    panel_width = 2.6
    panel_height = panel_width * min(2.0, max(0.4, height / width)) + 0.3
    figure = Figure((max(5.5, panel_width * columns), panel_height * rows + 0.4))
    figure.set_layout_engine("constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in panels:
        axes.set_axis_off()
    return figure, panels


def _show_image(axes: Axes, explanation: Explanation) -> None:
    height, width = explanation.attention.size
    axes.imshow(explanation.rgb, extent=(0, width, height, 0))


def _show_weights(axes: Axes, explanation: Explanation, weights: np.ndarray) -> None:
    """Show weights (h, w) over the image."""
    from matplotlib import colormaps

    height, width = explanation.attention.size
    grey = explanation.rgb.mean(-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    strength = weights / weights.max()
    overlay = colormaps["inferno"](strength)
    overlay[..., 3] = 0.35 + 0.5 * strength
    axes.imshow(overlay, extent=(0, width, height, 0), interpolation="bilinear")
    axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_place(axes: Axes, place: np.ndarray, colour: str, linestyle: str) -> None:
    """Draw a box, or a point."""
    from matplotlib.patches import Rectangle

    left, top, *corner = place
    if not corner:
        axes.plot(left, top, "+", color=colour, markersize=12, markeredgewidth=2)
        return
    right, bottom = corner
    axes.add_patch(
        Rectangle(
            (left, top),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=colour,
            linewidth=2,
            linestyle=linestyle,
        )
    )


def _draw_samples(axes: Axes, samples: np.ndarray, size: tuple[int, int]) -> None:
    """Draw samples (heads, S, 3) that lie in the image, the larger the more they count."""
    x, y, weight = samples.reshape(-1, 3).T
    height, width = size
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    area = 60 * weight[inside] / weight.max()
    axes.scatter(x[inside], y[inside], area, color="#56B4E9", edgecolors="none", alpha=0.8)


def _save(figure: Figure, output: str | Path) -> None:
    make_folder(Path(output).parent)
    with replacing(output) as partial:
        figure.savefig(partial, dpi=110)
