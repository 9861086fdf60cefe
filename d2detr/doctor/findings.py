"""Every kind of fault that a dataset can have: its severity and its words, decided once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_EXAMPLES = 3

# Training cannot start, or would learn something else than what was meant.
_ERRORS = {
    "malformed_image": "entries of 'images' cannot be read",
    "malformed_annotation": "annotations cannot be read; training would stop at them",
    "text_image_id": "ids of images are no whole numbers, which the evaluation needs",
    "duplicate_image_id": "ids of images occur twice",
    "duplicate_annotation_id": "ids of annotations occur twice, which spoils the evaluation",
    "duplicate_category_id": "ids of categories occur twice",
    "bad_size": "images have a width or height that is not a positive number",
    "bad_class_name": "classes have something else than a text as their name; write it in quotes",
    "duplicate_class_name": "classes have the name of an earlier one; rename or join them",
    "unknown_class": (
        "annotations have a category id that is not among the {known}; correct it, or remove them"
    ),
    "broken_box": "boxes are not four finite numbers; correct or remove them",
    "text_box": "boxes hold texts where numbers belong; write them without quotes",
    "bad_iscrowd": (
        "annotations have an 'iscrowd' that is neither the number 0 nor 1; they would be taken "
        "for crowd regions and left out"
    ),
    "normalised_boxes": (
        "boxes of {total} lie within [0, 1], as if they were shares of the image's sides; multiply "
        "them by its width and height"
    ),
    "xyxy_boxes": (
        "boxes seem to be [x0, y0, x1, y1] and not [x, y, width, height]: as the latter {outside} "
        "reach out of their image, as the former {fitting} fit into it"
    ),
    "missing_mask": "annotations have no 'segmentation', which MODEL.MASK_ON trains on",
    "no_objects": "images hold no object to {purpose} between them; crowd regions do not count",
    "missing_image": "files of images do not exist ({why})",
    "unreadable_image": "files of images cannot be read; replace them, or remove their images",
    "exif_rotated": "images are turned by their EXIF orientation, which the annotations ignore",
    "wrong_size": "images have another size than annotated",
    "bad_segment_id": (
        "segments have an id that is not a whole number from 1 to 16777215, as colours of their "
        "PNG are"
    ),
    "duplicate_segment_id": "images have a segment id twice",
    "segments_differ": "panoptic PNGs do not hold what their segments_info says",
    "class_count": "classes instead of {train}; all datasets must have the same",
    "class_order": (
        "classes have other numbers than in {train}, so that one would be taken for another; "
        "register both with the same classes in the same order"
    ),
}
# Training can start, but something is left out or may not be meant.
_WARNINGS = {
    "unknown_image": "annotations belong to no image and are left out",
    "first_category_id": (
        "lists of categories begin with another id than 1, as COCO's does; training maps the ids, "
        "but other tools may shift the classes"
    ),
    "duplicate_file_name": (
        "images have the file of an earlier one; objects that only one of them has are background "
        "in the other"
    ),
    "ends_grey": (
        "JPEGs end in plain grey, as they do where their data are damaged; look at them, and "
        "replace those that are"
    ),
    "degenerate_box": "boxes have no area within their image and are left out",
    "outside_box": "boxes reach out of their image and are clipped",
    "duplicate_box": (
        "annotations repeat the class and the box of another one of their image; DETR is taught "
        "to find the object twice"
    ),
    "unusable_mask": (
        "masks are neither polygons of three points nor RLE or bitmaps of the image's size"
    ),
    "mask_mismatch": "masks do not fit their box",
    "more_objects_than_queries": (
        "images have more than {num_queries} objects (at most {most}); each query finds one, so "
        "that some are not learned unless MODEL.DETR.NUM_OBJECT_QUERIES is raised"
    ),
    "class_absent_in_training": (
        "classes of validation have no object in training, so that their AP will be 0"
    ),
    "class_names_differ": "classes have another name than in {train}",
    "image_in_both_splits": (
        "images of validation are in training too, which makes the AP too good"
    ),
}
KINDS = {code: ("error", words) for code, words in _ERRORS.items()} | {
    code: ("warning", words) for code, words in _WARNINGS.items()
}
# Warnings that are errors where masks are trained.
_STOP_MASK_TRAINING = frozenset({"unusable_mask"})


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one split.

    Attributes:
        code: a name that stays the same between versions, one of ``KINDS``.
        severity: "error" if training cannot or must not start, otherwise "warning".
        message: what it is, what follows from it and what to do, in words that follow the count.
        rows: the indices of the images, annotations or classes that have it.
        examples: the first of them, in words.
        split: where it was found.
    """

    code: str
    severity: str
    message: str
    rows: list[int] = field(repr=False)
    examples: list[str]
    split: str = ""

    @property
    def count(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        more = " and others" if self.count > len(self.examples) else ""
        return f"{self.count} {self.message}: {', '.join(self.examples)}{more}"


def find(
    code: str,
    rows: Iterable[int],
    describe: Callable[[int], str],
    *,
    trains_masks: bool = False,
    **values: Any,
) -> Iterable[Finding]:
    """Yield the finding of a kind, or nothing if there are no rows that have it.

    Args:
        code: one of ``KINDS``.
        rows: indices of what has the fault.
        describe: names one of them in words.
        trains_masks: whether a mask model is to be trained.
        values: what the kind's message leaves open.
    """
    rows = [int(row) for row in rows]
    if rows:
        severity, words = KINDS[code]
        if trains_masks and code in _STOP_MASK_TRAINING:
            severity = "error"
        examples = [describe(row) for row in rows[:MAX_EXAMPLES]]
        yield Finding(code, severity, words.format(**values), rows, examples)
