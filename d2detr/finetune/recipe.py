"""The fine-tuning recipe: what follows from the size of a dataset and of the machine, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from d2detr.compat import usable_cores
from d2detr.finetune.batch_size import largest_batch

# Images seen in a fine-tuning of a middle-sized dataset; VOC 2012 was published with 40 epochs of
# 11,540 images. Small datasets stop at MAX_EPOCHS, large ones get at least MIN_EPOCHS.
IMAGES_SEEN = 450_000
MIN_EPOCHS, MAX_EPOCHS = 20, 150
# As the original was trained on COCO: without trained weights the transformer starts from nothing.
EPOCHS_FROM_SCRATCH = 300
MAX_BATCH = 16
MIN_BATCHES_PER_EPOCH = 8
LONGEST_WARMUP = 500
# Queries for each object of the fullest image, where the model has too few.
SPARE_QUERIES = 1.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """One setting of the recipe.

    Attributes:
        key: the config key.
        value: what it is set to.
        reason: why, for people.
    """

    key: str
    value: Any
    reason: str


def apply_recipe(
    cfg: CfgNode,
    num_images: int,
    num_classes: int,
    most_objects: int,
    *,
    pretrained: bool,
    base: CfgNode | None = None,
    num_devices: int = 1,
    given: Iterable[str] = (),
) -> list[Choice]:
    """Adapt a config to a dataset and the machine, in place.

    Args:
        cfg: the config with what the user has set. ``MODEL`` and ``INPUT`` are final.
        num_images: training images.
        num_classes: classes of the dataset.
        most_objects: objects of the image that has most of them.
        pretrained: whether the transformer starts from trained weights.
        base: the config without what the user has set, whose learning rate fits its batch; None
            for ``cfg`` itself.
        num_devices: processes that train together.
        given: keys that the user has set; they stay, and the rest follows from them.

    Returns:
        What was chosen, in the order of the decisions.
    """
    given = set(given)
    choices: list[Choice] = []

    def choose(key: str, value: Any, reason: str) -> None:
        if key in given:
            current = cfg
            for part in key.split("."):
                current = current[part]
            choices.append(Choice(key, current, "given"))
        else:
            cfg.merge_from_list([key, value])
            choices.append(Choice(key, value, reason))

    choose("MODEL.DETR.NUM_CLASSES", num_classes, "the classes of the dataset")
    choose("MODEL.DETR.NUM_OBJECT_QUERIES", *_queries(cfg, most_objects))

    solver = cfg.SOLVER
    usual = (base or cfg).SOLVER
    base_batch, base_lr = usual.IMS_PER_BATCH, usual.BASE_LR
    if "SOLVER.IMS_PER_BATCH" not in given:
        choose("SOLVER.IMS_PER_BATCH", *_batch(cfg, num_images, num_devices))
    batch = solver.IMS_PER_BATCH
    choose(
        "SOLVER.BASE_LR",
        float(f"{base_lr * math.sqrt(batch / base_batch):.2g}"),
        f"{base_lr:g} fits batches of {base_batch}; for Adam it changes with the square root",
    )

    choose("SOLVER.MAX_ITER", *_iterations(num_images, batch, pretrained))
    iterations = solver.MAX_ITER
    choose("SOLVER.STEPS", (int(iterations * 0.75),), "learning rate / 10 for the last quarter")
    choose(
        "SOLVER.WARMUP_ITERS",
        min(LONGEST_WARMUP, iterations // 20),
        "classes that the weights lack start at random: a slow start spares what is trained",
    )
    period = iterations // 10 or iterations
    choose("TEST.EVAL_PERIOD", period, "at most ten evaluations, of which the best model is kept")
    choose("SOLVER.CHECKPOINT_PERIOD", period, "a killed run loses a tenth at most")
    workers = min(4, usable_cores() // num_devices)
    choose("DATALOADER.NUM_WORKERS", workers, "of the processors that there are")
    return choices


def describe_recipe(choices: list[Choice]) -> str:
    """Return the recipe as a table."""
    rows = [(choice.key, choice.value, choice.reason) for choice in choices]
    return tabulate(rows, headers=("key", "value", "why"), maxcolwidths=(None, None, 66))


def _queries(cfg: CfgNode, most_objects: int) -> tuple[int, str]:
    detr = cfg.MODEL.DETR
    given = detr.NUM_OBJECT_QUERIES
    if most_objects <= given:
        return given, "kept, because trained queries are worth more than fewer or more of them"
    if detr.FREEZE_BOX_MODEL or detr.FROZEN_WEIGHTS:
        return given, (
            f"kept, because the box model is frozen: of an image with {most_objects} objects, "
            f"{most_objects - given} cannot be found"
        )
    needed = math.ceil(most_objects * SPARE_QUERIES / 10) * 10
    return needed, (
        f"an image has {most_objects} objects, of which {given} queries could find {given}; the "
        f"{needed - given} new queries start untrained"
    )


def _batch(cfg: CfgNode, num_images: int, num_devices: int) -> tuple[int, str]:
    fitting, reason = largest_batch(cfg)
    limits = {
        reason: fitting,
        "larger batches would leave fewer steps, which cost more": MAX_BATCH // num_devices,
        f"more would make too few steps of {num_images} images": num_images
        // (MIN_BATCHES_PER_EPOCH * num_devices),
    }
    reason = min(limits, key=limits.__getitem__)
    return 2 ** int(math.log2(max(1, limits[reason]))) * num_devices, reason


def _iterations(num_images: int, batch: int, pretrained: bool) -> tuple[int, str]:
    if pretrained:
        epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, round(IMAGES_SEEN / num_images)))
        reason = f"{epochs} epochs of {num_images} images; small datasets need more of them"
    else:
        epochs = EPOCHS_FROM_SCRATCH
        reason = f"{epochs} epochs of {num_images} images, because nothing is trained yet"
    return max(1, math.ceil(epochs * num_images / batch)), reason
