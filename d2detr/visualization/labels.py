"""Where labels go, so that they cover neither other objects nor each other."""

from __future__ import annotations

import numpy as np

# What it costs to cover a pixel of something, relative to another object's box.
_OTHER_LABEL, _OWN_BOX, _BEYOND_PICTURE = 4.0, 0.02, 100.0


def place_labels(
    boxes: np.ndarray, label_sizes: np.ndarray, picture_size: tuple[float, float]
) -> np.ndarray:
    """Place a label at each box, on the outside or else the inside of one of its edges.

    Labels of small boxes choose first. Where there is no room, they cover as little as possible.

    Args:
        boxes: (N, 4) XYXY in pixels.
        label_sizes: (N, 2), width and height in pixels.
        picture_size: width and height in pixels.

    Returns:
        (N, 2), the left and upper edge of each label.
    """
    placed = np.zeros((len(boxes), 4))
    taken: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for index in np.argsort(areas, kind="stable").tolist():
        labels = _candidates(boxes[index], label_sizes[index])
        others = np.delete(boxes, index, axis=0)
        within = _overlaps(labels, np.array([[0, 0, *picture_size]]))[:, 0]
        costs = (
            _overlaps(labels, others).sum(axis=1)
            + _OTHER_LABEL * _overlaps(labels, placed[taken]).sum(axis=1)
            + _OWN_BOX * _overlaps(labels, boxes[[index]])[:, 0]
            + _BEYOND_PICTURE * (label_sizes[index].prod() - within)
        )
        placed[index] = labels[costs.round(3).argmin()]  # the first of those that cost the same
        taken.append(index)
    return placed[:, :2]


def _candidates(box: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Labels (M, 4) XYXY along the edges of a box, the preferred ones first."""
    (left, top, right, bottom), (width, height) = box, size
    columns = (left, right - width, (left + right - width) / 2, left - width, right)
    rows = (top, bottom - height, (top + bottom - height) / 2)
    corners = [(x, y) for y in (top - height, top, bottom, bottom - height) for x in columns]
    corners += [(x, y) for x in (right, left - width, left, right - width) for y in rows]
    upper_left = np.array(corners)
    return np.concatenate((upper_left, upper_left + size), axis=1)


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas (N, M) that N and M boxes XYXY have in common."""
    upper_left = np.maximum(first[:, None, :2], second[None, :, :2])
    lower_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return (lower_right - upper_left).clip(min=0).prod(axis=2)
