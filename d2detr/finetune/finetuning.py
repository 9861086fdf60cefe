"""Fine-tuning in one go: from a folder of images to a trained model, its AP and its pictures."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from d2detr.checkpoint import fetch_weights, load_weights, read_checkpoint, recognise_format
from d2detr.checkpoint.saving import BEST_MODEL, periodic_checkpoints
from d2detr.config import check_training_settings, load_config
from d2detr.datasets.auto import register_auto_dataset
from d2detr.datasets.places import require_existing
from d2detr.doctor.dataset_content import read_split
from d2detr.engine.output_folder import RemoveReplacedRun, claim_output, restore_replaced
from d2detr.engine.run_log import set_up_logging
from d2detr.engine.run_report import ReportWriter, report_run
from d2detr.engine.trainer import Trainer
from d2detr.errors import UserError
from d2detr.files import write_json, write_text
from d2detr.finetune.recipe import apply_recipe, describe_recipe
from d2detr.model_zoo import get_config_file
from d2detr.predict.predictor import checkpoint_of_run
from d2detr.report.run_folder import RECIPE_FILE

_CHECKPOINTS_TO_KEEP = 2
_DEFAULT_CONFIG = "detr_r50.yaml"

logger = logging.getLogger(__name__)


class FinetuneTrainer(Trainer):
    """A trainer that keeps the last two checkpoints."""

    def build_hooks(self) -> list[HookBase]:
        # The report is written once the best model is evaluated.
        usual = [hook for hook in super().build_hooks() if not isinstance(hook, ReportWriter)]
        return [*usual, RemoveReplacedRun()]

    def after_step(self) -> None:
        super().after_step()
        if comm.is_main_process() and self.checkpointer.saved_iteration == self.iter:
            for superseded in periodic_checkpoints(self.cfg.OUTPUT_DIR)[:-_CHECKPOINTS_TO_KEEP]:
                superseded.unlink(missing_ok=True)


def plan_finetuning(args: argparse.Namespace) -> CfgNode:
    """Decide everything about a fine-tuning and write it to ``OUTPUT/config.yaml``.

    Args:
        args: of ``tools/finetune.py``.

    Returns:
        The frozen config. With ``args.resume`` it is the one that the output folder holds.

    Raises:
        UserError: the dataset, the weights or the output folder cannot be used.
    """
    output = Path(args.output)
    if args.overwrite:
        _check_weights_stay(args.weights, output)
    claim_output(output, args.resume, args.overwrite)
    try:
        set_up_logging(str(output), rank=0, names=["d2detr"])
        cfg = _decide(args, output)
    except BaseException:
        restore_replaced(output)
        raise
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    write_text(output / "config.yaml", cfg.dump())
    return cfg


def run_finetuning(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Train, evaluate the best model and draw what it sees.

    Args:
        cfg: the config of :func:`plan_finetuning`.
        resume: go on from the last checkpoint in the output folder.

    Returns:
        The metrics of the best model.
    """
    output = Path(cfg.OUTPUT_DIR)
    try:
        trainer = FinetuneTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        results = trainer.train()
    except BaseException:
        if comm.is_main_process():
            restore_replaced(output)  # if it has not yet been replaced
        raise
    best = output / BEST_MODEL
    comm.synchronize()  # the main process may still be writing it
    if best.is_file() and not trainer.best_is_last():
        load_weights(trainer.model, str(best), key="Checkpoint")
        results = Trainer.test(cfg, trainer.model)
    assert results is not None  # training ends with an evaluation
    if comm.is_main_process():
        _finish(cfg, results, best)
    return results


def _check_weights_stay(weights: str, output: Path) -> None:
    path = Path(weights).resolve()
    if weights and path.exists() and path.is_relative_to(output.resolve()):
        raise UserError(
            f"--weights {weights} is part of the run that --overwrite replaces, {output}. Choose "
            "another --output to keep it, or go on with it by --resume."
        )


def _decide(args: argparse.Namespace, output: Path) -> CfgNode:
    names = register_auto_dataset(args.data, args.val)
    if not (args.resume and (output / "config.yaml").is_file()):
        return _plan(args, names, output)
    cfg = load_config(str(output / "config.yaml"), args.opts)
    if (names["train"],) != cfg.DATASETS.TRAIN:
        raise UserError(
            f"--resume: the run in {output} trains on {', '.join(cfg.DATASETS.TRAIN)}, not on "
            f"{names['train']}. Choose another --output."
        )
    return cfg


def _plan(args: argparse.Namespace, names: dict[str, str], output: Path) -> CfgNode:
    config_file, weights = _find_model(args.weights, args.config_file)
    cfg = load_config(config_file, args.opts)
    check_training_settings(cfg)
    given = set(args.opts[::2])
    cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS if "MODEL.WEIGHTS" in given else weights
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (names["train"],), (names["val"],)
    pretrained = _has_trained_transformer(cfg)  # before anything that takes time
    tables = [read_split(name).table for name in (names["train"], names["val"])]
    most_objects = max(int(table.objects_per_image.max(initial=0)) for table in tables)
    choices = apply_recipe(
        cfg,
        len(tables[0].file_names),
        len(tables[0].class_names),
        most_objects,
        pretrained=pretrained,
        base=load_config(config_file),
        num_devices=comm.get_world_size(),
        given=given,
    )
    write_json(output / RECIPE_FILE, [asdict(choice) for choice in choices], indent=1)
    logger.info(f"The recipe, on top of {config_file}:\n{describe_recipe(choices)}")
    if most_objects > cfg.MODEL.DETR.NUM_OBJECT_QUERIES:
        logger.warning(
            f"An image has {most_objects} objects, but MODEL.DETR.NUM_OBJECT_QUERIES is "
            f"{cfg.MODEL.DETR.NUM_OBJECT_QUERIES}: the others are neither learned nor found."
        )
    if not pretrained:
        logger.warning(
            "Only the backbone is trained, if anything: DETR then needs far more images and "
            "epochs than a fine-tuning. Start from a trained DETR if there is one."
        )
    return cfg


def _has_trained_transformer(cfg: CfgNode) -> bool:
    path = fetch_weights(cfg.MODEL.WEIGHTS)
    if not path:
        return False
    weights = read_checkpoint(path, cfg.MODEL.WEIGHTS_TRUSTED)["model"]
    form = recognise_format(weights)
    return form is not None and not form.backbone_only


def _find_model(weights: str, config_file: str | None) -> tuple[str, str]:
    """Return the config and the weights of a model.

    The folder of a run, or a checkpoint in one, brings its own config; ``detr://NAME`` has that
    of the same name.
    """
    folder = None
    if weights and "://" not in weights:
        path = require_existing(weights, "--weights")
        folder = path if path.is_dir() else path.parent
        if path.is_dir() and (path / "config.yaml").is_file():
            weights = str(checkpoint_of_run(path))
    if config_file:
        return config_file, weights
    if folder is not None and (folder / "config.yaml").is_file():
        return str(folder / "config.yaml"), weights
    if weights.startswith("detr://"):
        return get_config_file(weights.removeprefix("detr://") + ".yaml"), weights
    return get_config_file(_DEFAULT_CONFIG), weights


def _finish(cfg: CfgNode, results: dict[str, Any], best: Path) -> None:
    from d2detr.visualization import draw_results  # Matplotlib takes long to import

    output = Path(cfg.OUTPUT_DIR)
    write_json(output / "results.json", results)
    name = cfg.DATASETS.TEST[0]
    detections = output / "inference" / "coco_instances_results.json"
    pictures = output / "predictions"
    for order in ("first", "worst"):
        draw_results(name, detections, pictures / f"{order}.png", order=order)
    if cfg.TEST.REPORT:
        report_run(cfg.OUTPUT_DIR)
    logger.info(
        f"AP {results['bbox']['AP']:.1f}, AP50 {results['bbox']['AP50']:.1f} on validation, with "
        f"{best if best.is_file() else 'the last model'}. Pictures: {pictures}"
    )
