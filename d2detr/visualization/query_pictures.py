"""Which query predicts what, over many images: figure 7 of DETR's paper, and who wins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d2detr.files import make_folder, replacing
from d2detr.visualization.attention_weights import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_COLUMNS, _MOST_ROWS = 10, 2
_MOST_NUMBERS = 30  # of queries that fit below a diagram
_MOST_CLASSES = 20
_SMALL = 0.25  # side of the largest square that is small, as a share of the image
_SIZES = (("small", "#009E73"), ("large and wide", "#D55E00"), ("large and high", "#0072B2"))


@dataclass(frozen=True)
class QueryTally:
    """What Q queries predict in N images.

    Attributes:
        boxes: (N, Q, 4) centre, width and height of all boxes of the last decoder layer, as shares
            of the image.
        wins: (Q, K) how often a query detects an object of each class.
    """

    boxes: np.ndarray
    wins: np.ndarray

    @property
    def never(self) -> list[int]:
        """Queries that never detect anything."""
        return np.flatnonzero(self.wins.sum(1) == 0).tolist()


def tally_queries(images: Iterable[Predictions], score_threshold: float = 0.5) -> QueryTally:
    """Count what queries predict in one image or more.

    Args:
        images: of :func:`layer_predictions`.
        score_threshold: of what counts as a detection.
    """
    boxes, won, shape = [], [], (0, 0)
    for image in images:
        height, width = image.size
        corners = (image.boxes[-1] / (width, height, width, height)).reshape(-1, 2, 2)
        boxes.append(np.concatenate((corners.mean(1), corners[:, 1] - corners[:, 0]), axis=1))
        shape = len(corners), image.num_classes
        won += [(query, image.classes[-1, query]) for query in image.detections(score_threshold)]
    wins = np.zeros(shape, np.int64)
    for pair in won:
        wins[pair] += 1
    return QueryTally(np.stack(boxes), wins)


def draw_queries(tally: QueryTally, class_names: Sequence[str], output: str | Path) -> None:
    """Draw where the queries that win most predict boxes, and which classes win how often.

    Args:
        tally: of :func:`tally_queries`.
        class_names: of the K classes.
        output: the picture.
    """
    from matplotlib.figure import Figure

    counts = tally.wins.sum(1)
    order = np.argsort(-counts, kind="stable")
    winners = order[counts[order] > 0]
    rows = min(_MOST_ROWS, -(-len(order) // _COLUMNS))
    heights = 1.8 * rows + 0.8, 4.5
    figure = Figure((15, sum(heights)), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    _draw_places(upper, tally, order[: _COLUMNS * rows])
    frequency, classes = lower.subplots(1, 2, width_ratios=(1, 1.6))
    frequency.bar(np.arange(len(order)), counts[order], width=1, color="#0072B2")
    frequency.set_title(
        f"Detections per query in {len(tally.boxes)} images: {len(tally.never)} of {len(order)} "
        "queries have none"
    )
    frequency.set_ylabel("detections")
    _number(frequency, order)
    _draw_classes(classes, tally.wins[winners], class_names)
    _number(classes, winners)
    make_folder(Path(output).parent)
    with replacing(output) as partial:
        figure.savefig(partial, dpi=100)


def _draw_places(figure: SubFigure, tally: QueryTally, queries: np.ndarray) -> None:
    from matplotlib.lines import Line2D

    counts = tally.wins.sum(1)
    figure.suptitle("Centres of all boxes of the queries with the most detections")
    grid = figure.subplots(-(-len(queries) // _COLUMNS), _COLUMNS, squeeze=False).flatten()
    for axes in grid[len(queries) :]:
        axes.set_axis_off()
    for axes, query in zip(grid, queries, strict=False):
        x, y, width, height = tally.boxes[:, query].T
        kind = np.where(width * height < _SMALL**2, 0, np.where(width >= height, 1, 2))
        colours = np.array([colour for _, colour in _SIZES])[kind]
        axes.scatter(x, y, s=5, c=colours, alpha=0.6, linewidths=0)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=(), yticks=(), aspect="equal")
        axes.set_title(f"query {query}: {counts[query]}", fontsize=9)
    entries = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in _SIZES
    ]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False)


def _number(axes: Axes, queries: np.ndarray) -> None:
    axes.set_xlabel("queries, by detections")
    axes.set_xticks(*((range(len(queries)), queries) if len(queries) <= _MOST_NUMBERS else ((),)))


def _draw_classes(axes: Axes, wins: np.ndarray, class_names: Sequence[str]) -> None:
    """Draw the share of each class in the detections of queries (Q, K) that have some."""
    if not len(wins):
        axes.set_axis_off()
        axes.set_title("No query detects anything")
        return
    common = np.argsort(-wins.sum(0), kind="stable")[:_MOST_CLASSES]
    shares = (wins / wins.sum(1, keepdims=True))[:, common].T
    image = axes.imshow(shares, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    kinds = "classes" if len(common) == wins.shape[1] else f"the {len(common)} commonest classes"
    axes.set_title(f"Share of {kinds} in the detections of a query")
    names = [class_names[number] for number in common]
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.figure.colorbar(image, ax=axes)
