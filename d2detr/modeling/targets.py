from dataclasses import dataclass

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from d2detr.errors import UserError
from d2detr.layers import box_xyxy_to_cxcywh


@dataclass
class Targets:
    """Ground truth of a batch: the T objects of all its images in one run.

    Attributes:
        labels: (T,) classes in [0, K).
        boxes: (T, 4) float32, centre, width, height relative to the image, in [0, 1].
        counts: number of objects of each image, on the host.
        image: (T,) index in the batch of each object's image.
        masks: (T, H, W) bool at the padded size of the batch, False at padding; None without.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    image: Tensor
    masks: Tensor | None = None

    @classmethod
    def create(
        cls,
        labels: list[Tensor],
        boxes: list[Tensor],
        device: torch.device | str | None = None,
        masks: Tensor | None = None,
    ) -> "Targets":
        """Join the targets of single images.

        Args:
            labels: one (N,) tensor per image.
            boxes: one (N, 4) tensor per image, relative centre, width, height.
            device: where the targets shall be; None leaves them.
            masks: (T, H, W) of all images, or None.
        """
        counts = [len(x) for x in labels]
        image = torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64))
        all_labels, all_boxes = torch.cat(labels), torch.cat(boxes).float()
        device = device or all_labels.device
        return cls(
            labels=all_labels.to(device, torch.int64, non_blocking=True),
            boxes=all_boxes.to(device, non_blocking=True),
            counts=counts,
            image=image.to(device, non_blocking=True),
            masks=None if masks is None else masks.to(device, torch.bool, non_blocking=True),
        )

    @classmethod
    def from_instances(
        cls,
        instances: list[Instances],
        num_classes: int,
        device: torch.device | str,
        mask_size: tuple[int, int] | None = None,
    ) -> "Targets":
        """Join the ``gt_classes`` and ``gt_boxes`` (absolute XYXY) of Detectron2's Instances.

        Args:
            instances: one per image.
            num_classes: K; classes must be in [0, K).
            device: where the targets shall be.
            mask_size: height and width of the padded batch, to join ``gt_masks`` too (BitMasks or
                PolygonMasks); None leaves masks out.

        Raises:
            UserError: a class is outside [0, num_classes), a box is not finite or masks are
                missing. Only targets on the host are checked; looking at a GPU's would make every
                step wait for it.
        """
        boxes = []
        for x in instances:
            height, width = x.image_size
            size = x.gt_boxes.tensor.new_tensor((width, height, width, height))
            boxes.append(box_xyxy_to_cxcywh(x.gt_boxes.tensor) / size)
            if x.gt_classes.device.type == "cpu":
                _check_targets(x, num_classes)
        masks = None if mask_size is None else join_masks(instances, mask_size)
        return cls.create([x.gt_classes for x in instances], boxes, device, masks)


def join_masks(instances: list[Instances], size: tuple[int, int]) -> Tensor:
    """Pad the ``gt_masks`` of several images to one size, (T, H, W) bool.

    Raises:
        UserError: Instances have no ``gt_masks``.
    """
    masks = []
    for x in instances:
        if not x.has("gt_masks"):
            if len(x) == 0:
                continue  # Detectron2's own mapper leaves the field out where nothing is
            raise UserError(
                "The model has a mask head, but the training data has no 'gt_masks'. Use a "
                "dataset with masks and a mapper that keeps them, or a model without a mask head."
            )
        masks.append((x.image_size, _bitmasks(x.gt_masks, x.image_size)))
    device = masks[0][1].device if masks else None
    joined = torch.zeros(sum(len(x) for _, x in masks), *size, dtype=torch.bool, device=device)
    start = 0
    for (height, width), tensor in masks:
        joined[start : start + len(tensor), :height, :width] = tensor
        start += len(tensor)
    return joined


def _bitmasks(masks: BitMasks | PolygonMasks, size: tuple[int, int]) -> Tensor:
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *size)
    return masks.tensor


def _check_targets(instances: Instances, num_classes: int) -> None:
    classes = instances.gt_classes
    if ((classes < 0) | (classes >= num_classes)).any():
        raise UserError(
            f"gt_classes {classes.tolist()} are not all in [0, {num_classes - 1}]: the model has "
            f"{num_classes} classes. Give it as many as the dataset has, and the dataset "
            "contiguous class ids that start at 0."
        )
    if not torch.isfinite(instances.gt_boxes.tensor).all():
        raise UserError(f"gt_boxes are not finite: {instances.gt_boxes.tensor.tolist()}.")
