"""Image files that are missing, damaged or not what the annotations say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from d2detr.datasets.image_files import ImageState
from d2detr.datasets.places import explain_missing
from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.dataset_content import Split
from d2detr.doctor.findings import Finding, find


def image_findings(split: Split, states: Sequence[ImageState]) -> Iterable[Finding]:
    """Find what is wrong with the files of a dataset.

    Args:
        split: the dataset.
        states: of the table's files, then of the extra ones.
    """
    table = split.table
    names = [*table.file_names, *(name for _, name in split.extra_files)]
    owners = [*range(len(table.file_names)), *(owner for owner, _ in split.extra_files)]
    problems = {
        "missing_image": {i: names[i] for i, state in enumerate(states) if state.missing},
        "unreadable_image": {
            i: f"{names[i]} ({state.problem})" for i, state in enumerate(states) if state.problem
        },
    }
    for code, described in problems.items():
        of_image = {owners[i]: words for i, words in described.items()}
        why = explain_missing(names[min(described)]).rstrip(".") if described else ""
        yield from find(code, sorted(of_image), of_image.__getitem__, why=why)
    grey = {owners[i] for i, state in enumerate(states) if state.ends_grey}
    yield from find("ends_grey", sorted(grey), table.file_names.__getitem__)
    yield from _size_findings(table, states)


def _size_findings(table: AnnotationTable, states: Sequence[ImageState]) -> Iterable[Finding]:
    sizes = [tuple(size) for size in table.sizes.tolist()]
    wrong = [
        i
        for i, size in enumerate(sizes)
        if states[i].size is not None and np.isfinite(size).all() and states[i].size != size
    ]
    turned = {i for i in wrong if states[i].turned and states[i].size == sizes[i][::-1]}

    def compare(row: int) -> str:
        width, height = sizes[row]
        return (
            f"{table.file_names[row]} is {states[row].size}, annotated as ({width:g}, {height:g})"
        )

    yield from find("exif_rotated", sorted(turned), compare)
    yield from find("wrong_size", [i for i in wrong if i not in turned], compare)
