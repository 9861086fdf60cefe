"""Attention over an image as a page to click on, which needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2detr.files import make_folder, write_text
from d2detr.visualization.attention_weights import Attention
from d2detr.visualization.explanation import Explanation

_MOST_CELLS = 1000
_MOST_DETECTIONS = 50


def write_attention_page(explanation: Explanation, output: str | Path, title: str) -> None:
    """Write attention over an image as one HTML file that works offline.

    It stays below 13 MB for DETR: weights have 8 bits, relative to the largest of their map; those
    of the encoder are averaged over heads; and of images with more than 1,000 cells, neighbouring
    ones are joined. The page says what is left out.

    Args:
        explanation: of :func:`explain`.
        output: the file.
        title: of the page, such as the name of the image.
    """
    # Inside of a script element only "<" can end it.
    content = json.dumps(_content(explanation, title)).replace("<", "\\u003c")
    template = resources.files("d2detr.visualization") / "page" / "attention.html"
    make_folder(Path(output).parent)
    write_text(output, template.read_text(encoding="utf-8").replace("@CONTENT@", content))


def _content(explanation: Explanation, title: str) -> dict[str, Any]:
    attention = explanation.attention
    rows, columns = attention.decoder.shape[-2:]
    step = 1
    while (grid := (-(-rows // step), -(-columns // step)))[0] * grid[1] > _MOST_CELLS:
        step += 1
    queries = explanation.queries[:_MOST_DETECTIONS]
    return {
        "title": title,
        "image": _data_url(explanation.rgb),
        "grid": grid,
        # How much of the image the grid covers, which joined cells may reach beyond.
        "extent": [grid[0] * step / rows, grid[1] * step / columns],
        "layers": len(attention.decoder),
        "heads": attention.decoder.shape[1],
        "maskHeads": 0 if attention.masks is None else attention.masks.shape[1],
        "detections": [_detection(explanation, query, step) for query in queries],
        "encoder": [
            _quantise(_join(weights.mean(0), step, axes=range(4))) for weights in attention.encoder
        ],
        "notes": _notes(explanation, len(queries), step),
    }


def _detection(explanation: Explanation, query: int, step: int) -> dict[str, Any]:
    attention = explanation.attention
    maps = list(attention.decoder[:, :, query])
    if attention.masks is not None:
        maps.append(attention.masks[query])
    references = attention.references
    return {
        "label": explanation.label(query),
        "query": query,
        "boxes": _shares(attention.boxes[:, query], attention.size),
        "references": None if references is None else _shares(references[:, query], attention.size),
        "samples": _samples(attention, query),
        "maps": [_quantise(_join(_with_mean(heads), step, axes=(-2, -1))) for heads in maps],
    }


def _notes(explanation: Explanation, shown: int, step: int) -> list[str]:
    notes = []
    found, total = len(explanation.queries), explanation.attention.scores.shape[-1]
    if not found:
        notes.append(explanation.nothing_found)
    else:
        notes.append(
            f"Shown are the queries that find something with a score of at least "
            f"{explanation.score_threshold:g}: {shown} of {total}."
        )
    if shown < found:
        notes.append(f"{found - shown} more detections with lower scores are left out.")
    if explanation.attention.samples is not None:
        notes.append(
            "Points are what a query samples, in all feature maps: the larger, the more it counts. "
            "Brightness sums it up over the cells of one feature map."
        )
    if step > 1:
        notes.append(f"{step} x {step} cells of the model are joined to one.")
    notes.append(
        "Brightness is relative to a map's brightest cell. The encoder's heads are averaged."
    )
    return notes


def _samples(attention: Attention, query: int) -> list | None:
    """Every layer's and head's samples: x and y as shares of the image, weights of the largest."""
    if attention.samples is None:
        return None
    height, width = attention.size
    samples = attention.samples[:, :, query] / (width, height, attention.samples[..., 2].max())
    return samples.round(3).tolist()


def _with_mean(heads: np.ndarray) -> np.ndarray:
    """The mean of (heads, h, w), and then all of them."""
    return np.concatenate((heads.mean(0, keepdims=True), heads))


def _join(weights: np.ndarray, step: int, axes: Any) -> np.ndarray:
    """Sum weights over so many neighbours along each axis."""
    for axis in axes:
        starts = np.arange(0, weights.shape[axis], step)
        weights = np.add.reduceat(weights, starts, axis=axis)
    return weights


def _quantise(weights: np.ndarray) -> str:
    """Weights of the last two axes' cells as bytes relative to the largest, in base64."""
    largest = weights.max((-2, -1), keepdims=True)
    levels = (weights / np.maximum(largest, np.finfo(np.float32).tiny) * 255).round()
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode()


def _shares(places: np.ndarray, size: tuple[int, int]) -> list[list[float]]:
    """Points or corners in pixels as shares of the image's width and height."""
    height, width = size
    pairs = places.reshape(len(places), -1, 2) / (width, height)
    return pairs.reshape(len(places), -1).round(4).tolist()


def _data_url(rgb: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
