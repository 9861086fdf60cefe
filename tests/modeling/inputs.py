"""Model inputs for tests."""

import torch
from detectron2.structures import Boxes, Instances, PolygonMasks


def make_input(
    height: int, width: int, num_objects: int = 0, seed: int = 0, masks: bool = False
) -> dict:
    """A random image with ``num_objects`` boxes of classes 0, 1, ..., and masks of their halves."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    size = torch.tensor([width, height] * 2)
    corners = torch.rand(num_objects, 2, generator=generator) * 0.5
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.cat((corners, corners + 0.4), dim=1) * size)
    instances.gt_classes = torch.arange(num_objects)
    if masks:
        polygons = [[x[[0, 1, 2, 1, 2, 3]].numpy()] for x in instances.gt_boxes.tensor]
        instances.gt_masks = PolygonMasks(polygons)
    return {"image": image, "instances": instances}
