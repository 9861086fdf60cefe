"""What the contenders are given: a config, images and their objects."""

from dataclasses import dataclass, field, fields
from itertools import cycle, islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn

from d2detr.config import load_config
from d2detr.data import build_dataset_mapper
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError

DATASET_IMAGES = 100  # that are taken of a dataset; published tables time inference on as many
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Workload:
    """One benchmark's settings; the same on the command line.

    Attributes:
        config_file: of the model.
        opts: ``KEY VALUE`` overrides of it.
        batch: images per step.
        size: height and width of the images in pixels.
        objects: of every image.
        amp: a key of :data:`AMP`.
        compile: compile our model (``MODEL.COMPILE``).
        dataset: take the images from this registered dataset instead of making them up, over and
            over if it has fewer.
        threads: of torch on the CPU; 0 leaves its choice.
    """

    config_file: str
    opts: tuple[str, ...] = ()
    batch: int = 1
    size: tuple[int, int] = (800, 1066)
    objects: int = 7
    amp: str = "off"
    compile: bool = False
    dataset: str = ""
    threads: int = 0
    cfg: CfgNode = field(init=False, repr=False)

    def __post_init__(self):
        cfg = load_config(self.config_file, list(self.opts))
        if cfg.SOLVER.AMP.ENABLED:
            raise UserError("Mixed precision is measured with --amp, not with SOLVER.AMP.ENABLED.")
        if self.compile:
            cfg.MODEL.COMPILE = True
        if cfg.MODEL.DETR.NUM_CLASSES == 0:
            cfg.MODEL.DETR.NUM_CLASSES = 91  # as the original; no dataset has to be there
        if self.threads:
            torch.set_num_threads(self.threads)
        object.__setattr__(self, "cfg", cfg)

    @property
    def device(self) -> torch.device:
        return torch.device(self.cfg.MODEL.DEVICE)

    @property
    def has_masks(self) -> bool:
        return self.cfg.MODEL.MASK_ON

    @property
    def num_classes(self) -> int:
        return self.cfg.MODEL.DETR.NUM_CLASSES

    def description(self) -> dict[str, Any]:
        """The settings, as JSON can hold them."""
        values = {x.name: getattr(self, x.name) for x in fields(self) if x.name != "cfg"}
        return {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}

    def autocast(self) -> torch.autocast:
        dtype = AMP[self.amp]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def build_model(self) -> nn.Module:
        """Our model, with random weights that are the same every time."""
        torch.manual_seed(0)
        return build_model(self.cfg)

    def images(self, count: int) -> list[dict[str, Any]]:
        """Inputs of inference: ``image`` (3, H, W) uint8 at the size that the network reads."""
        if self.dataset:
            return self._dataset_images(count)
        generator = torch.Generator().manual_seed(0)
        shape = (3, *self.size)
        return [
            {"image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)}
            for _ in range(count)
        ]

    def training_batch(self) -> list[dict[str, Any]]:
        """Inputs of training: images with ``instances``."""
        generator = torch.Generator().manual_seed(1)
        batch = []
        for x in self.images(self.batch):
            height, width = x["image"].shape[-2:]
            instances = Instances((height, width))
            sides = torch.rand(self.objects, 2, generator=generator) * 0.5 + 0.05
            corner = torch.rand(self.objects, 2, generator=generator) * (1 - sides)
            boxes = torch.cat((corner, corner + sides), 1)
            boxes *= torch.tensor([width, height, width, height])
            instances.gt_boxes = Boxes(boxes)
            instances.gt_classes = torch.randint(
                self.num_classes, (self.objects,), generator=generator
            )
            if self.has_masks:
                instances.gt_masks = BitMasks(_filled_boxes(boxes, height, width))
            batch.append({"image": x["image"], "instances": instances})
        return batch

    def load_dataset(self, default: str = "") -> list[dict[str, Any]]:
        """The records of ``dataset`` or, if none is given, of another registered one."""
        return load_dataset(self.dataset or default)

    def _dataset_images(self, count: int) -> list[dict[str, Any]]:
        mapper = build_dataset_mapper(self.cfg, is_train=False)
        return [mapper(x) for x in islice(cycle(self.load_dataset()), count)]


def _filled_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    left, top, right, bottom = boxes[..., None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
