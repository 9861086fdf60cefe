"""Evaluating a model that is trained already."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode

from d2detr.checkpoint import load_weights
from d2detr.checkpoint.saving import RunCheckpointer
from d2detr.engine.output_folder import holds_checkpoint
from d2detr.engine.preparation import prepare
from d2detr.engine.run_report import report_run
from d2detr.engine.trainer import Trainer

logger = logging.getLogger(__name__)


def evaluate(cfg: CfgNode, *, resume: bool = False) -> dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS`` on ``DATASETS.TEST``.

    Args:
        cfg: a config with DETR's keys.
        resume: evaluate the last checkpoint in ``OUTPUT_DIR`` instead, if there is one.

    Returns:
        The metrics, of each dataset if there are several.

    Raises:
        UserError: the datasets or the weights cannot work.
    """
    prepare(cfg, is_train=False, with_weights=not (resume and holds_checkpoint(cfg.OUTPUT_DIR)))
    model = Trainer.build_model(cfg)
    checkpointer = RunCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    checkpoint = checkpointer.find_checkpoint() if resume else ""
    weights = checkpoint or cfg.MODEL.WEIGHTS
    report = load_weights(model, weights, trusted=cfg.MODEL.WEIGHTS_TRUSTED)
    if not weights:
        logger.warning(
            "MODEL.WEIGHTS is empty: what is evaluated is random. MODEL.DETR.FROZEN_WEIGHTS is "
            "read in training only; to evaluate what was trained into OUTPUT_DIR add --resume."
        )
    elif report.random:
        logger.warning(
            f"{len(report.random)} tensors, such as {report.random[0]}, are not in the weights: "
            "what is evaluated is partly random. To evaluate what was trained into OUTPUT_DIR add "
            "--resume, or set MODEL.WEIGHTS."
        )
    results = Trainer.test(cfg, model)
    if cfg.TEST.REPORT:
        report_run(cfg.OUTPUT_DIR, cfg.DATASETS.TEST)
    return results
