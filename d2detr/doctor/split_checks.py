"""What training and validation should share, or should not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from d2detr.datasets.image_files import same_files
from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.findings import Finding, find


def class_order_findings(
    train: AnnotationTable, other: AnnotationTable, train_name: str
) -> Iterable[Finding]:
    """Find classes whose number means another class in training. Rows are those of ``other``."""
    wanted, given = train.class_names, other.class_names
    if len(wanted) != len(given):
        yield from find(
            "class_count",
            range(len(given)),
            lambda row: repr(given[row]),
            train=f"the {len(wanted)} of {train_name}",
        )
        return
    differing = [row for row, name in enumerate(given) if wanted[row] != name]

    def describe(row: int) -> str:
        return f"number {row + 1} is {given[row]!r}, in training {wanted[row]!r}"

    moved = [i for i in differing if given[i] in wanted]
    yield from find("class_order", moved, describe, train=train_name)
    renamed = [i for i in differing if given[i] not in wanted]
    yield from find("class_names_differ", renamed, describe, train=train_name)


def absent_class_findings(
    trains: Sequence[AnnotationTable], val: AnnotationTable
) -> Iterable[Finding]:
    """Find classes of validation without an object in any training dataset."""
    trained = {i for train in trains for i in np.flatnonzero(train.objects_per_class).tolist()}
    counts = val.objects_per_class
    yield from find(
        "class_absent_in_training",
        [i for i in np.flatnonzero(counts).tolist() if i not in trained],
        lambda row: f"{val.class_names[row]} ({counts[row]} objects)",
    )


def shared_image_findings(
    trains: Sequence[AnnotationTable], val: AnnotationTable
) -> Iterable[Finding]:
    """Find images of validation that are in training too."""
    files = [name for train in trains for name in train.file_names]
    same = same_files(files, val.file_names)
    yield from find(
        "image_in_both_splits",
        sorted(same),
        lambda row: f"{val.file_names[row]} is {files[same[row]]}",
    )
