"""From mask logits to instance masks and panoptic segmentation, with bounded memory."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances
from PIL import Image
from torch import Tensor

from d2detr.modeling.classification import Classification
from d2detr.modeling.targets import join_masks

# Masks are predicted and upsampled a few at a time, so that their number does not decide the
# memory that inference needs. Cells are those of the finest feature (32 or more channels).
_CELLS_PER_PASS = 2**20
_PIXELS_PER_PASS = 2**22

Size = tuple[int, int]


@dataclass
class Segmenter:
    """What inference does with masks.

    Attributes:
        classification: scores queries for panoptic segmentation.
        mask_threshold: pixels whose probability is higher belong to an instance, in (0, 1).
        thing_classes: which classes are things, for panoptic segmentation; None does without.
        panoptic_threshold: only queries with a higher score become segments.
        segment_area: segments of at most this many pixels of the output are dropped.
    """

    classification: Classification
    mask_threshold: float = 0.5
    thing_classes: Collection[int] | None = None
    panoptic_threshold: float = 0.85
    segment_area: int = 4

    def __call__(
        self,
        detections: list[Instances],
        class_logits: Tensor,
        predict_masks: Callable[[Tensor, Tensor], Tensor],
        images: ImageList,
    ) -> list[dict[str, Any]]:
        """Segment the first images of a batch, one after the other.

        Args:
            detections: of each image; see :meth:`segment`.
            class_logits: (B, Q, C).
            predict_masks: gives mask logits (M, h, w) for M pairs of an image and a query.
            images: the batch.

        Returns:
            The results of :meth:`segment` for each of ``detections``.
        """
        return [
            self.segment(
                instances,
                class_logits[i],
                lambda query, i=i: predict_masks(torch.full_like(query, i), query),
                padded_size=tuple(images.tensor.shape[-2:]),
                image_size=tuple(images.image_sizes[i]),
            )
            for i, instances in enumerate(detections)
        ]

    def segment(
        self,
        instances: Instances,
        class_logits: Tensor,
        predict_masks: Callable[[Tensor], Tensor],
        *,
        padded_size: Size,
        image_size: Size,
    ) -> dict[str, Any]:
        """Segment one image.

        Args:
            instances: detections; ``query_index`` (N,) tells which queries they are of.
            class_logits: (Q, C).
            predict_masks: gives mask logits (M, h, w) of M queries of the image.
            padded_size: height and width that the logits stand for.
            image_size: height and width of the image without padding.

        Returns:
            ``instances`` with ``pred_masks`` (N, H, W) bool, at the size of ``instances``; and
            ``panoptic_seg`` if classes of things are known, see :func:`panoptic_segmentation`.
        """
        kept = instances.get("query_index")
        scores, classes = self.classification.score(class_logits)
        is_object = classes != self.classification.num_classes
        is_segment = is_object & (scores > self.panoptic_threshold)
        segments = is_segment.nonzero()[:, 0] if self.thing_classes is not None else kept[:0]

        queries = torch.cat((kept, segments)).unique()
        logits = predict_in_passes(predict_masks, queries, padded_size)
        sizes = {
            "padded_size": padded_size,
            "image_size": image_size,
            "output_size": instances.image_size,
        }
        instances.remove("query_index")
        instances.pred_masks = instance_masks(
            logits[torch.searchsorted(queries, kept)], threshold=self.mask_threshold, **sizes
        )
        result: dict[str, Any] = {"instances": instances}
        if self.thing_classes is not None:
            result["panoptic_seg"] = panoptic_segmentation(
                logits[torch.searchsorted(queries, segments)],
                scores[segments],
                classes[segments],
                thing_classes=self.thing_classes,
                segment_area=self.segment_area,
                **sizes,
            )
        return result

    def to_panoptic(self, truth: Instances) -> tuple[Tensor, list[dict[str, Any]]]:
        """The panoptic segmentation that ``gt_masks`` and ``gt_classes`` describe."""
        ids = torch.zeros(truth.image_size, dtype=torch.int32)
        segments = []
        masks = join_masks([truth], truth.image_size).cpu()
        for number, label in enumerate(truth.gt_classes.tolist(), start=1):
            ids[masks[number - 1]] = number
            is_thing = label in self.thing_classes
            segments.append({"id": number, "category_id": label, "isthing": is_thing})
        return ids, segments


def predict_in_passes(
    predict_masks: Callable[[Tensor], Tensor], queries: Tensor, padded_size: Size
) -> Tensor:
    """Mask logits (M, h, w) of M queries, predicted a few at a time."""
    cells = math.ceil(padded_size[0] / 4) * math.ceil(padded_size[1] / 4)
    passes = queries.split(max(1, _CELLS_PER_PASS // cells))
    return torch.cat([predict_masks(x) for x in passes])


def instance_masks(
    logits: Tensor, *, padded_size: Size, image_size: Size, output_size: Size, threshold: float
) -> Tensor:
    """Instance masks as the original makes them.

    They are upsampled bilinearly to the padded size, compared with the threshold, freed from
    padding and resized to the output by nearest neighbour.

    Args:
        logits: (N, h, w).
        padded_size: height and width that the logits stand for.
        image_size: height and width of the image without padding.
        output_size: height and width of the masks to make.
        threshold: of the probability, in (0, 1).

    Returns:
        (N, height, width) bool.
    """
    masks = torch.empty(len(logits), *output_size, dtype=torch.bool, device=logits.device)
    # Comparing logits spares a sigmoid of every pixel.
    logit_threshold = math.log(threshold / (1 - threshold))
    start = 0
    for upsampled in _upsample(logits, padded_size, image_size, output_size):
        binary = (upsampled > logit_threshold).to(torch.uint8)
        resized = F.interpolate(binary[:, None], tuple(output_size), mode="nearest")[:, 0]
        masks[start : start + len(resized)] = resized
        start += len(resized)
    return masks


def panoptic_segmentation(
    logits: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    thing_classes: Collection[int],
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    segment_area: int = 4,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Give every pixel to one query, as the original does (paper, section 4.4).

    Queries of the same stuff class are merged. Segments that are too small are dropped, and every
    pixel is given to one of the others anew, until none is too small.

    Args:
        logits: (N, h, w) of the queries that may become segments.
        scores: (N,).
        classes: (N,), without no-object.
        thing_classes: the classes of things; others are stuff.
        padded_size: height and width that the logits stand for.
        image_size: height and width of the image without padding.
        output_size: height and width of the segmentation.
        segment_area: segments of at most this many pixels are dropped.

    Returns:
        (height, width) int32 segment ids from 1, or 0 everywhere if there is no segment; and a
        dict of ``id``, ``isthing``, ``category_id`` (the class), ``score`` and ``area`` per
        segment.
    """
    queries = np.arange(len(logits))
    scores, labels = scores.tolist(), classes.tolist()
    is_thing = [label in thing_classes for label in labels]
    same_stuff = defaultdict(list)
    for query, label in enumerate(labels):
        if not is_thing[query]:
            same_stuff[label].append(query)

    owner = _owners(logits, padded_size, image_size)
    for first, *others in same_stuff.values():
        owner[np.isin(owner, others)] = first
    owner = _resize_nearest(owner, output_size)
    area = np.bincount(owner.ravel(), minlength=len(queries))
    while len(queries) and (area[: len(queries)] <= segment_area).any():
        # What was merged into another query is too small now, so that merging happens once.
        queries = queries[area[: len(queries)] > segment_area]
        owner = _owners(logits[torch.from_numpy(queries)], padded_size, image_size)
        owner = _resize_nearest(owner, output_size)
        area = np.bincount(owner.ravel(), minlength=len(queries))

    segments = [
        {
            "id": number + 1,
            "isthing": is_thing[query],
            "category_id": labels[query],
            "score": scores[query],
            "area": int(area[number]),
        }
        for number, query in enumerate(queries.tolist())
    ]
    ids = owner + 1 if segments else owner
    return torch.from_numpy(ids).to(logits.device), segments


def _owners(logits: Tensor, padded_size: Size, image_size: Size) -> np.ndarray:
    """Which of N masks is the strongest at each pixel, int32 (height, width); 0 without masks."""
    owner = torch.zeros(*image_size, dtype=torch.int32, device=logits.device)
    strongest = torch.full(image_size, -torch.inf, device=logits.device)
    start = 0
    for upsampled in _upsample(logits, padded_size, image_size, image_size):
        value, index = upsampled.max(0)
        better = value > strongest  # and not equal: the first of equal ones wins
        owner = torch.where(better, index.int() + start, owner)
        strongest = torch.where(better, value, strongest)
        start += len(upsampled)
    return owner.cpu().numpy()


def _upsample(
    logits: Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> Iterator[Tensor]:
    """Logits (n, height, width) at the size of the image, a few masks at a time."""
    pixels = max(math.prod(padded_size), math.prod(output_size))
    height, width = image_size
    for part in logits.split(max(1, _PIXELS_PER_PASS // pixels)):
        if len(part):
            upsampled = F.interpolate(
                part[:, None].float(), tuple(padded_size), mode="bilinear", align_corners=False
            )
            yield upsampled[:, 0, :height, :width]


def _resize_nearest(ids: np.ndarray, size: Size) -> np.ndarray:
    if ids.shape == tuple(size):
        return ids
    # Pillow takes the pixel at the centre and torch the one at the corner; this one is Pillow's.
    return np.asarray(Image.fromarray(ids).resize((size[1], size[0]), Image.NEAREST)).copy()
