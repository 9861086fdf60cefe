"""The training mapper: from an image file and its annotations to tensors, in one process."""

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.structures import BoxMode
from PIL import Image
from torch import Tensor

from d2detr.data import build_dataset_mapper
from d2detr.errors import UserError
from d2detr.measure.peer import build_image_processor
from d2detr.measure.timing import Step
from d2detr.measure.workload import DATASET_IMAGES, Workload

_BATCHES = 8  # that the share of padding is taken of, at least

Record = dict[str, Any]


def our_mapping(workload: Workload) -> Step:
    """One batch of one worker; returns the last image."""
    mapper = build_dataset_mapper(workload.cfg, is_train=True)
    next_records = _in_turn(_records(workload), workload.batch)

    def run() -> Tensor:
        return [mapper(record)["image"] for record in next_records()][-1]

    return run


def peer_mapping(workload: Workload) -> Step:
    """The same with the peer's image processor, which resizes to the same sizes.

    Like our mapper, it leaves normalisation and padding to later.

    Raises:
        UserError: the config asks for what the peer cannot do, or the dataset.
    """
    if workload.cfg.INPUT.CROP.ENABLED or workload.cfg.INPUT.RANDOM_FLIP != "none":
        raise UserError(
            "--compare huggingface can neither crop nor flip: add INPUT.CROP.ENABLED False "
            "INPUT.RANDOM_FLIP none."
        )
    processor = build_image_processor(workload)
    mapper = build_dataset_mapper(workload.cfg, is_train=True)
    records = _records(workload)
    annotations = [_coco_annotations(record, workload.has_masks) for record in records]
    next_records = _in_turn(list(zip(records, annotations, strict=True)), workload.batch)
    sizes = _in_turn([mapper(x)["image"].shape[-2:] for x in records], workload.batch)

    def run() -> Tensor:
        for (record, annotation), (height, width) in zip(next_records(), sizes(), strict=True):
            with Image.open(record["file_name"]) as image:
                inputs = processor(
                    image.convert("RGB"),
                    annotation,
                    size={"height": height, "width": width},
                    return_segmentation_masks=workload.has_masks,
                    do_rescale=False,
                    do_normalize=False,
                    do_pad=False,
                    return_tensors="pt",
                )
        return inputs["pixel_values"]

    return run


def describe_padding(workload: Workload) -> dict[str, Any]:
    """Which share of a training batch's pixels is padding, images grouped as the loader does."""
    mapper = build_dataset_mapper(workload.cfg, is_train=True)
    records = _records(workload)
    count = max(len(records), _BATCHES * workload.batch)
    images = _mapped_sizes(mapper, islice(cycle(records), count))
    if workload.cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        batches = list(AspectRatioGroupedDataset(images, workload.batch))
    else:
        images = list(images)
        starts = range(0, count - workload.batch + 1, workload.batch)
        batches = [images[start : start + workload.batch] for start in starts]
    filled = sum(np.prod(x["size"]) for batch in batches for x in batch)
    total = sum(
        len(batch) * np.prod(np.max([x["size"] for x in batch], axis=0)) for batch in batches
    )
    return {"padded_share": float(1 - filled / total)}


def _mapped_sizes(
    mapper: Callable[[Record], Record], records: Iterator[Record]
) -> Iterator[Record]:
    for record in records:
        output = mapper(record)
        yield {
            "width": output["width"],
            "height": output["height"],
            "size": tuple(output["image"].shape[-2:]),
        }


def _records(workload: Workload) -> list[Record]:
    np.random.seed(0)  # which augmentation draws from, so that each contender meets the same
    records = workload.load_dataset("shapes_train")
    # The peer fails to make masks of no objects.
    with_objects = (x for x in records if x.get("annotations") or x.get("segments_info"))
    return list(islice(with_objects, DATASET_IMAGES))


def _in_turn(items: list, count: int) -> Callable[[], list]:
    """Returns the next ``count`` of the items, over and over."""
    endless = cycle(items)
    return lambda: list(islice(endless, count))


def _coco_annotations(record: Record, with_masks: bool) -> Record:
    """A record's annotations as the peer takes them, which cannot tell the masks of crowds."""
    if "segments_info" in record:
        raise UserError("--compare huggingface takes datasets of instances, not panoptic ones.")
    annotations = []
    for annotation in record.get("annotations", ()):
        if annotation.get("iscrowd", 0):
            continue
        if with_masks and not isinstance(annotation["segmentation"], list):
            raise UserError(
                "--compare huggingface takes masks from polygons only, which not all of "
                f"{record['file_name']} are. Add MODEL.MASK_ON False to compare boxes."
            )
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
        annotations.append({**annotation, "bbox": box, "area": box[2] * box[3]})
    return {"image_id": record["image_id"], "annotations": annotations}
