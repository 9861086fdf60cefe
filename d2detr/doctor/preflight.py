"""Checks of the datasets before the first iteration."""

from __future__ import annotations

import logging
import shlex
import time

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from d2detr.datasets.categories import check_num_classes
from d2detr.doctor.dataset_content import read_split
from d2detr.doctor.dataset_report import Report
from d2detr.doctor.examination import examine
from d2detr.errors import UserError

LEVELS = ("full", "annotations", "off")

logger = logging.getLogger(__name__)


def check_datasets(cfg: CfgNode, is_train: bool = True) -> None:
    """Check everything that training or evaluation will read, and log what is in it.

    Args:
        cfg: a config with DETR's keys. ``DATASETS.PREFLIGHT`` says how much is looked at.
        is_train: whether to check the training datasets too, or those for testing alone.

    Raises:
        UserError: a dataset is not registered, has another number of classes than the model, or
            holds what cannot be trained on; lists all that was found.
    """
    split, level = "TRAIN" if is_train else "TEST", cfg.DATASETS.PREFLIGHT
    if not cfg.DATASETS[split]:
        raise UserError(f"DATASETS.{split} is empty: name at least one dataset.")
    if level not in LEVELS:
        raise UserError(f"DATASETS.PREFLIGHT is {level!r}; it must be one of {', '.join(LEVELS)}.")
    if level == "off":
        check_num_classes(cfg, is_train)
        logger.warning("DATASETS.PREFLIGHT is off: annotations and images were not looked at.")
        return
    start = time.perf_counter()
    train_names = cfg.DATASETS.TRAIN if is_train else ()
    num_classes = cfg.MODEL.DETR.NUM_CLASSES or None
    splits = {
        name: read_split(name, "train" if name in train_names else "val", num_classes)
        for name in dict.fromkeys([*train_names, *cfg.DATASETS.TEST])
    }
    check_num_classes(cfg, is_train)
    report = examine(
        splits,
        num_queries=cfg.MODEL.DETR.NUM_OBJECT_QUERIES,
        images="sample" if level == "full" else "none",
        masks="train" if is_train and cfg.MODEL.MASK_ON else "skip",
    )
    _log(report, time.perf_counter() - start)
    if report.errors:
        raise UserError(_refusal(report))


def _log(report: Report, seconds: float) -> None:
    for finding in report.warnings:
        logger.warning(f"{finding.split}: {finding}.")
    for words in report.skipped:
        logger.info(f"Not looked at: {words}.")
    for name, split in report.splits.items():
        logger.info(f"{name}: {split.table.summary()}.")
    logger.info(f"The datasets were checked in {seconds:.1f} s.")


def _refusal(report: Report) -> str:
    lines = [f"Dataset {finding.split!r}: {finding}." for finding in report.errors]
    # Entries that cannot be read keep the tool from more than naming them, too.
    malformed = {x.split for x in report.errors if x.code.startswith("malformed_")}
    for name in dict.fromkeys(x.split for x in report.errors if x.split not in malformed):
        # A tool knows no dataset that was registered by the user's code.
        json_file = MetadataCatalog.get(name).get("json_file")
        target = name if name.startswith("auto:") else json_file
        if target:
            lines.append(
                f"tools/check_dataset.py {shlex.quote(target)} lists what is wrong, and with "
                "--fix OUT corrects much of it."
            )
    return "\n".join(lines)
