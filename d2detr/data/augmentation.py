"""The original DETR's augmentation, configured by ``INPUT`` and made of Detectron2's transforms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

from d2detr.errors import UserError


def short_side_shape(
    height: int, width: int, short_side: int, max_size: int | None = None
) -> tuple[int, int]:
    """Return the shape of an image resized to a short side, rounded as the original DETR does.

    Args:
        height: the image's height, in pixels.
        width: the image's width, in pixels.
        short_side: the short side after resizing, in pixels.
        max_size: the longest side allowed, in pixels; ``short_side`` shrinks to respect it, and
            rounding may still exceed it by a pixel or two. None for no limit.

    Returns:
        The new (height, width) in pixels.
    """
    shortest, longest = float(min(height, width)), float(max(height, width))
    if max_size is not None and longest / shortest * short_side > max_size:
        short_side = max(1, int(round(max_size * shortest / longest)))
    # The long side is truncated here; Detectron2's ResizeShortestEdge rounds it.
    if width < height:
        return int(short_side * height / width), short_side
    return short_side, int(short_side * width / height)


class ResizeShortSide(T.Augmentation):
    """Resize the short side to a randomly drawn length, keeping the aspect ratio."""

    def __init__(
        self,
        short_sides: Sequence[int],
        max_size: int | None = None,
        sampling: str = "choice",
        fast: bool = False,
    ):
        """Configure the lengths to draw from.

        Args:
            short_sides: lengths in pixels; a drawn length of 0 leaves the image as it is.
            max_size: the longest side allowed, in pixels; None for no limit.
            sampling: "choice" draws one of ``short_sides``; "range" draws an integer between its
                two values, both included.
            fast: resize with torch and not with Pillow; see :class:`FastResizeTransform`.
        """
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self.sampling == "range":
            short_side = np.random.randint(self.short_sides[0], self.short_sides[1] + 1)
        else:
            short_side = np.random.choice(self.short_sides)
        if short_side == 0:
            return NoOpTransform()
        new_height, new_width = short_side_shape(height, width, int(short_side), self.max_size)
        if (new_height, new_width) == (height, width):
            return NoOpTransform()
        transform = FastResizeTransform if self.fast else T.ResizeTransform
        return transform(height, width, new_height, new_width)


class FastResizeTransform(T.ResizeTransform):
    """Detectron2's resizing with torch's vectorised copy of Pillow's bilinear filter.

    It takes a quarter of the time. One value in a thousand differs by a grey level, and a handful
    of millions by two.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if interp is not None or img.dtype != np.uint8:  # masks, for example
            return super().apply_image(img, interp)
        img = np.require(img, requirements="W")  # torch warns of what Pillow reads
        # Torch has no negative strides, which flips leave behind, but copies faster than NumPy.
        flipped = tuple(axis for axis, stride in enumerate(img.strides) if stride < 0)
        pixels = torch.from_numpy(np.flip(img, flipped)).flip(flipped)
        pixels = torch.atleast_3d(pixels).permute(2, 0, 1)[None]
        size = (self.new_h, self.new_w)
        resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
        return resized.permute(1, 2, 0).reshape(*size, *img.shape[2:]).numpy()


def build_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Build the augmentation that ``cfg.INPUT`` describes.

    In training: a flip; for a share ``CROP.PROBABILITY`` of the images a resize to a short side
    from ``CROP.RESIZE_SIZES`` and a random crop; then a resize to a short side from
    ``MIN_SIZE_TRAIN``; or after the flip large-scale jitter with ``SCALE_JITTER``. In inference: a
    resize to ``MIN_SIZE_TEST``.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether the images are for training.

    Returns:
        Augmentations to be applied in this order.

    Raises:
        UserError: a key of ``cfg.INPUT`` has a value that cannot work.
    """
    if not is_train:
        return [ResizeShortSide((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)]
    augmentations = []
    if cfg.INPUT.RANDOM_FLIP != "none":
        augmentations.append(_build_flip(cfg.INPUT.RANDOM_FLIP))
    if cfg.INPUT.SCALE_JITTER:
        return [*augmentations, *_build_scale_jitter(cfg.INPUT)]
    if cfg.INPUT.CROP.ENABLED:
        augmentations.append(_build_random_crop(cfg.INPUT))
    augmentations.append(_build_train_resize(cfg.INPUT))
    return augmentations


def _build_flip(direction: str) -> T.Augmentation:
    if direction not in ("horizontal", "vertical"):
        raise UserError(
            f"INPUT.RANDOM_FLIP is {direction!r}; it must be 'horizontal', 'vertical' or 'none'."
        )
    return T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")


def _build_scale_jitter(inputs: CfgNode) -> list[T.Augmentation]:
    factors, short_sides = inputs.SCALE_JITTER, inputs.MIN_SIZE_TRAIN
    if len(factors) != 2 or not 0 < factors[0] <= factors[1]:
        raise UserError(
            f"INPUT.SCALE_JITTER is {factors}; it must be (smallest, largest) factor, both above 0."
        )
    if inputs.CROP.ENABLED:
        raise UserError(
            "INPUT.SCALE_JITTER crops already: set INPUT.CROP.ENABLED False, or SCALE_JITTER ()."
        )
    side = short_sides if isinstance(short_sides, int) else max(short_sides)
    # Not padded, for batches are, with a mask that tells DETR.
    return [T.ResizeScale(*factors, side, side), T.FixedSizeCrop((side, side), pad=False)]


def _build_random_crop(inputs: CfgNode) -> T.Augmentation:
    crop = inputs.CROP
    crop_types = ("absolute_range", "absolute", "relative_range", "relative")
    if crop.TYPE not in crop_types:
        raise UserError(f"INPUT.CROP.TYPE is {crop.TYPE!r}; it must be one of {crop_types}.")
    if crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        raise UserError(f"INPUT.CROP.SIZE is {crop.SIZE}; absolute_range needs (min, max).")
    if not 0 <= crop.PROBABILITY <= 1:
        raise UserError(f"INPUT.CROP.PROBABILITY is {crop.PROBABILITY}; it must be in [0, 1].")
    steps: list[T.Augmentation] = [T.RandomCrop(crop.TYPE, crop.SIZE)]
    if crop.RESIZE_SIZES:
        # Without a longest side: a crop follows, so that a long image costs nothing.
        steps.insert(0, ResizeShortSide(crop.RESIZE_SIZES, fast=inputs.FAST_RESIZE))
    random_crop = T.RandomApply(T.AugmentationList(steps), prob=crop.PROBABILITY)
    # RandomApply prints only what it keeps under the names of its parameters.
    random_crop.tfm_or_aug = random_crop.aug
    return random_crop


def _build_train_resize(inputs: CfgNode) -> T.Augmentation:
    short_sides, sampling = inputs.MIN_SIZE_TRAIN, inputs.MIN_SIZE_TRAIN_SAMPLING
    if isinstance(short_sides, int):
        short_sides = (short_sides,)
    if sampling not in ("choice", "range"):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING is {sampling!r}; it must be 'choice' or 'range'."
        )
    if sampling == "range" and not (len(short_sides) == 2 and short_sides[0] <= short_sides[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {short_sides}; with MIN_SIZE_TRAIN_SAMPLING 'range' it must "
            "be (min, max)."
        )
    if not short_sides:
        raise UserError("INPUT.MIN_SIZE_TRAIN is empty; give at least one length in pixels.")
    return ResizeShortSide(short_sides, inputs.MAX_SIZE_TRAIN, sampling, inputs.FAST_RESIZE)
