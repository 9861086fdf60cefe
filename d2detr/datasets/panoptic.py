"""COCO's panoptic format: a PNG whose colours are segment ids, and ``segments_info``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image
from scipy.ndimage import find_objects

from d2detr.datasets.text_files import read_json
from d2detr.errors import UserError


class Segment(NamedTuple):
    """A mask: where a map (H, W) uint8, which segments of an image share, has this number."""

    labels: np.ndarray
    number: int


def read_segment_ids(file_name: str) -> np.ndarray:
    """Read a panoptic PNG.

    Returns:
        (H, W) int32 segment ids; 0 is void.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            colors = np.asarray(image.convert("RGB"), dtype=np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Panoptic PNG {file_name} cannot be read: {error}") from error
    return colors[..., 0] + 256 * colors[..., 1] + 256**2 * colors[..., 2]


def panoptic_annotations(
    record: dict[str, Any], image_size: tuple[int, int], with_masks: bool
) -> list[dict[str, Any]]:
    """Turn the segments of an image into annotations of objects, stuff included.

    Boxes are made from the masks as the original does: from the first to the last pixel's index,
    so that they are one pixel smaller than the box around the pixels.

    Args:
        record: one image in Detectron2's panoptic format.
        image_size: (height, width) of the image.
        with_masks: whether to give a :class:`Segment` as "segmentation".

    Returns:
        One annotation per segment that is not a crowd, in Detectron2's dataset format.

    Raises:
        UserError: the PNG cannot be read, has another size than the image, or has other segments
            than ``segments_info``.
    """
    file_name, segments = record["pan_seg_file_name"], record["segments_info"]
    ids = read_segment_ids(file_name)
    if ids.shape != tuple(image_size):
        raise UserError(
            f"Panoptic PNG {file_name} is {ids.shape[1]} x {ids.shape[0]} pixels, but its image "
            f"{record['file_name']} is {image_size[1]} x {image_size[0]}."
        )
    known = np.array([0, *(segment["id"] for segment in segments)], dtype=ids.dtype)
    order = np.argsort(known, kind="stable")
    position = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
    labels = order[position]  # 0 for void, i + 1 for segment i
    unknown = known[labels] != ids
    if unknown.any():
        raise UserError(
            f"Panoptic PNG {file_name} has segment id {ids[unknown][0]}, which its segments_info "
            "does not describe."
        )
    boxes = find_objects(labels, max_label=len(segments))
    annotations = []
    shared = labels.astype(np.uint8) if len(segments) < 256 else None
    for number, (segment, box) in enumerate(zip(segments, boxes, strict=True), start=1):
        if box is None:
            raise UserError(
                f"segments_info of {file_name} describes segment id {segment['id']}, which has no "
                "pixel in the PNG."
            )
        if segment.get("iscrowd", 0):
            continue
        rows, columns = box
        annotation = {
            "category_id": segment["category_id"],
            "bbox": [columns.start, rows.start, columns.stop - 1, rows.stop - 1],
            "bbox_mode": BoxMode.XYXY_ABS,
        }
        if with_masks:
            annotation["segmentation"] = (
                Segment((labels == number).astype(np.uint8), 1)
                if shared is None
                else Segment(shared, number)
            )
        annotations.append(annotation)
    return annotations


def describe_segments(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose segments are annotations as far as ``segments_info`` tells, without masks.

    Records of other formats are returned as they are.
    """
    if "segments_info" not in record:
        return record
    annotations = [
        {"bbox": [0, 0, 1, 1], **segment, "bbox_mode": BoxMode.XYWH_ABS}
        for segment in record["segments_info"]
    ]
    return {**record, "annotations": annotations}


def find_panoptic_fault(metadata: Metadata) -> str | None:
    """Find what is wrong with the panoptic JSON that a dataset's metadata names.

    Returns:
        A sentence that names the file and the first fault, or None if none is found.
    """
    json_file = metadata.get("panoptic_json")
    if not json_file or not PathManager.isfile(json_file):
        return None
    try:
        content = read_json(json_file)
    except UserError as error:
        return str(error)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return f"{json_file} is not in COCO's panoptic format: it has no list 'annotations'."
    known = {
        *metadata.get("thing_dataset_id_to_contiguous_id", {}),
        *metadata.get("stuff_dataset_id_to_contiguous_id", {}),
    }
    for annotation in content["annotations"]:
        for key in ("image_id", "file_name", "segments_info"):
            if key not in annotation:
                return f"{json_file}: an entry of 'annotations' has no {key!r}."
        for segment in annotation["segments_info"]:
            if segment.get("category_id") not in known:
                return (
                    f"{json_file}: segment {segment.get('id')} of {annotation['file_name']} has "
                    f"category_id {segment.get('category_id')}, which is not among the "
                    f"{len(known)} categories of the dataset's metadata."
                )
    return None
