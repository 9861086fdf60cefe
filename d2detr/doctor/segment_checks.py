"""Segments of panoptic datasets whose ids are wrong or whose PNG shows others."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from d2detr.datasets.image_files import displayed_size
from d2detr.datasets.panoptic import panoptic_annotations
from d2detr.doctor.findings import Finding, find
from d2detr.errors import UserError

# Images per dataset whose segments are compared with their PNG.
NUM_COMPARED = 200


def segment_id_findings(records: list[dict[str, Any]]) -> Iterable[Finding]:
    """Find ids of segments that cannot be colours, or are twice there."""
    ids = [[segment.get("id") for segment in record["segments_info"]] for record in records]
    bad = {
        row: [x for x in group if not (isinstance(x, Integral) and 0 < int(x) < 256**3)]
        for row, group in enumerate(ids)
    }

    def describe(row: int) -> str:
        listed = bad[row][0] if bad[row] else ids[row]
        return f"segments_info of {records[row]['pan_seg_file_name']} has {listed!r}"

    yield from find("bad_segment_id", [row for row, group in bad.items() if group], describe)
    twice = [i for i, group in enumerate(ids) if not bad[i] and len(set(group)) < len(group)]
    yield from find("duplicate_segment_id", twice, describe)


def segment_findings(records: list[dict[str, Any]]) -> Iterable[Finding]:
    """Find PNGs with other segments or of another size than they should have.

    Of large datasets the PNGs of NUM_COMPARED images all over the dataset are checked. All files
    must be there and readable.
    """
    problems = {}
    for index in np.unique(np.linspace(0, len(records) - 1, NUM_COMPARED).astype(int)):
        with PathManager.open(records[index]["file_name"], "rb") as file, Image.open(file) as image:
            width, height = displayed_size(image)
        try:
            panoptic_annotations(records[index], (height, width), with_masks=False)
        except UserError as error:
            problems[index] = str(error).rstrip(".")
    yield from find("segments_differ", problems, problems.__getitem__)
