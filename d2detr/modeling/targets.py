from dataclasses import dataclass

import torch
from detectron2.structures import Instances
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
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    image: Tensor

    @classmethod
    def create(
        cls, labels: list[Tensor], boxes: list[Tensor], device: torch.device | str | None = None
    ) -> "Targets":
        """Join the targets of single images.

        Args:
            labels: one (N,) tensor per image.
            boxes: one (N, 4) tensor per image, relative centre, width, height.
            device: where the targets shall be; None leaves them.
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
        )

    @classmethod
    def from_instances(
        cls, instances: list[Instances], num_classes: int, device: torch.device | str
    ) -> "Targets":
        """Join the ``gt_classes`` and ``gt_boxes`` (absolute XYXY) of Detectron2's Instances.

        Raises:
            UserError: a class is outside [0, num_classes) or a box is not finite. Only targets on
                the host are checked; looking at a GPU's would make every step wait for it.
        """
        boxes = []
        for x in instances:
            height, width = x.image_size
            size = x.gt_boxes.tensor.new_tensor((width, height, width, height))
            boxes.append(box_xyxy_to_cxcywh(x.gt_boxes.tensor) / size)
            if x.gt_classes.device.type == "cpu":
                _check_targets(x, num_classes)
        return cls.create([x.gt_classes for x in instances], boxes, device)


def _check_targets(instances: Instances, num_classes: int) -> None:
    classes = instances.gt_classes
    if ((classes < 0) | (classes >= num_classes)).any():
        raise UserError(
            f"gt_classes {classes.tolist()} are not all in [0, {num_classes - 1}]: "
            f"MODEL.DETR.NUM_CLASSES is {num_classes}. Set it to the dataset's number of classes, "
            "and give the dataset contiguous class ids that start at 0."
        )
    if not torch.isfinite(instances.gt_boxes.tensor).all():
        raise UserError(f"gt_boxes are not finite: {instances.gt_boxes.tensor.tolist()}.")
