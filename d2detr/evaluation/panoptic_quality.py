"""Panoptic quality (Kirillov et al., CVPR 2019), by the rules of the COCO panoptic API.

No maintained package has them all: torchmetrics 1.9 knows no crowd regions and takes areas from
pixels where the API takes the annotated ones; faster-coco-eval has no panoptic quality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from d2detr.errors import UserError

VOID = 0
# Segment ids are three bytes, so that a pair of them fits into 64 bits.
_NUM_IDS = 256**3


class PanopticQuality:
    """Matched and unmatched segments of each category, added up over images.

    Args:
        category_ids: all categories, in the order of ``counts``.

    Attributes:
        counts: (C, 4) float64: sum of the matched segments' IoU, matched segments, predicted
            segments without a match, true segments without a match.
    """

    def __init__(self, category_ids: Iterable[int]):
        self.category_ids = list(category_ids)
        self._row = {category_id: row for row, category_id in enumerate(self.category_ids)}
        self.counts = np.zeros((len(self.category_ids), 4))

    def add(
        self,
        true_ids: np.ndarray,
        true_segments: list[dict[str, Any]],
        predicted_ids: np.ndarray,
        predicted_segments: list[dict[str, Any]],
        name: str = "",
    ) -> None:
        """Compare one image.

        A prediction matches a true segment of its category if they overlap with an IoU above 0.5,
        void left out of the union. Unmatched predictions that lie in void and in a crowd region of
        their category by more than a half are ignored, and so are crowd regions.

        Args:
            true_ids: (H, W) segment ids, 0 for void.
            true_segments: ``id``, ``category_id`` and, if they are not the number of pixels and 0,
                ``area`` and ``iscrowd`` of each segment.
            predicted_ids: (H, W) segment ids, 0 for void.
            predicted_segments: ``id`` and ``category_id`` of each segment.
            name: of the image, for messages.

        Raises:
            UserError: pixels and segments do not fit together.
        """
        if true_ids.shape != predicted_ids.shape:
            raise UserError(
                f"The prediction for image {name} has {predicted_ids.shape} rows and columns, but "
                f"the truth has {true_ids.shape}."
            )
        overlap = _count_pairs(true_ids, predicted_ids)
        area = _count_ids(predicted_ids)
        self._check(area, predicted_segments, name)
        pixels: Counter[int] = Counter()
        for (true_id, _), count in overlap.items():
            pixels[true_id] += count
        truth = {x["id"]: {"area": pixels[x["id"]], "iscrowd": 0, **x} for x in true_segments}
        predictions = {segment["id"]: segment["category_id"] for segment in predicted_segments}

        matched_true, matched_predictions = set(), set()
        for (true_id, predicted_id), intersection in overlap.items():
            segment = truth.get(true_id)
            if segment is None or predicted_id not in predictions or segment["iscrowd"]:
                continue
            if segment["category_id"] != predictions[predicted_id]:
                continue
            in_void = overlap.get((VOID, predicted_id), 0)
            # The annotated area and not the pixels', because the API does so.
            union = area[predicted_id] + segment["area"] - intersection - in_void
            iou = intersection / union
            if iou > 0.5:
                self.counts[self._row[segment["category_id"]], :2] += iou, 1
                matched_true.add(true_id)
                matched_predictions.add(predicted_id)

        crowds = {}
        for true_id, segment in truth.items():
            if segment["iscrowd"]:
                crowds[segment["category_id"]] = true_id
            elif true_id not in matched_true:
                self.counts[self._row[segment["category_id"]], 3] += 1
        for predicted_id, category_id in predictions.items():
            if predicted_id not in matched_predictions:
                ignored = overlap.get((VOID, predicted_id), 0)
                if category_id in crowds:
                    ignored += overlap.get((crowds[category_id], predicted_id), 0)
                if ignored / area[predicted_id] <= 0.5:
                    self.counts[self._row[category_id], 2] += 1

    def per_category(self) -> dict[int, dict[str, float] | None]:
        """``PQ``, ``SQ`` and ``RQ`` in [0, 1] of each category; None where it never occurs."""
        results = {}
        for category_id, (iou, matched, false, missed) in zip(
            self.category_ids, self.counts.tolist(), strict=True
        ):
            total = matched + 0.5 * false + 0.5 * missed
            results[category_id] = total and {
                "PQ": iou / total,
                "SQ": iou / matched if matched else 0.0,
                "RQ": matched / total,
            }
        return {key: value or None for key, value in results.items()}

    def mean(self, category_ids: Iterable[int] | None = None) -> dict[str, float]:
        """Mean of ``PQ``, ``SQ`` and ``RQ`` over those of the categories that occur.

        Args:
            category_ids: default all.

        Returns:
            The means in [0, 1], NaN if none occurs, and ``n``, the number of those that do.
        """
        chosen = set(self.category_ids if category_ids is None else category_ids)
        found = [x for key, x in self.per_category().items() if key in chosen and x]
        means = {
            key: sum(x[key] for x in found) / len(found) if found else float("nan")
            for key in ("PQ", "SQ", "RQ")
        }
        return {**means, "n": len(found)}

    def _check(self, area: Mapping[int, int], segments: list[dict[str, Any]], name: str) -> None:
        described = {segment["id"] for segment in segments}
        found = set(area) - {VOID}
        if found - described:
            raise UserError(
                f"The prediction for image {name} has pixels of segment {min(found - described)}, "
                "which its segments_info does not describe."
            )
        if described - set(area):
            raise UserError(
                f"The prediction for image {name} describes segment {min(described - set(area))}, "
                "which has no pixel."
            )
        unknown = {segment["category_id"] for segment in segments} - self._row.keys()
        if unknown:
            raise UserError(
                f"The prediction for image {name} has category {min(unknown)}, which the dataset "
                "does not have."
            )


def _count_ids(ids: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(ids, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _count_pairs(first: np.ndarray, second: np.ndarray) -> dict[tuple[int, int], int]:
    """Pixels of every pair of ids that occurs at the same place."""
    pairs = first.astype(np.int64) * _NUM_IDS + second
    return {divmod(pair, _NUM_IDS): count for pair, count in _count_ids(pairs).items()}
