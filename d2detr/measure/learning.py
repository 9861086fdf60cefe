"""Training several models side by side, each for the same CPU seconds."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from d2detr.checkpoint.saving import periodic_checkpoints
from d2detr.config import load_config
from d2detr.engine import Trainer
from d2detr.engine.output_folder import claim_output, remove_replaced
from d2detr.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """One of the models that are compared.

    Attributes:
        name: in tables, pictures and of its folder.
        config_file: of any Detectron2 model.
        opts: ``KEY VALUE`` overrides of it.
    """

    name: str
    config_file: str
    opts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """What a training had learned at one moment.

    Attributes:
        seconds: CPU seconds of training, evaluations left out.
        iteration: how many iterations were finished.
        ap: box AP of ``DATASETS.TEST`` in percent.
        ap50: the same at an IoU of 0.5.
    """

    seconds: float
    iteration: int
    ap: float
    ap50: float


class TimedTrainer(Trainer):
    """A training for a number of CPU seconds, a slice of them at a time.

    The schedule of the learning rate, which the config gives in iterations, is stretched or
    shortened to the seconds, so that every contender gets the whole of its own.

    Args:
        cfg: a config with DETR's keys.
        seconds: CPU seconds of the whole training.

    Attributes:
        points: what was learned after each slice.
    """

    def __init__(self, cfg: CfgNode, seconds: float):
        super().__init__(cfg)
        self.seconds = seconds
        self.points: list[Point] = []

    @property
    def spent(self) -> float:
        """CPU seconds of the slices that are finished."""
        return self.points[-1].seconds if self.points else 0.0

    def learn(self, seconds: float) -> Point:
        """Train for a slice, evaluate and write a checkpoint to resume from.

        Args:
            seconds: CPU seconds of the slice; the last one ends with the training.

        Raises:
            FloatingPointError: the training has diverged.
        """
        spent, stop = self.spent, min(self.spent + seconds, self.seconds)
        with EventStorage(self.start_iter) as self.storage:
            while spent < stop:
                start = time.process_time()
                self._set_learning_rates(spent / self.seconds)
                self.iter = self.start_iter
                self.run_step()
                if self.averaging:
                    self.averaging.after_step()
                self.storage.step()
                self.start_iter += 1
                spent += time.process_time() - start
        point = Point(spent, self.start_iter, *self._evaluate())
        self.points.append(point)
        self._replace_checkpoint()
        return point

    def _set_learning_rates(self, progress: float) -> None:
        self.scheduler.last_epoch = progress * self.cfg.SOLVER.MAX_ITER
        groups, rates = self.optimizer.param_groups, self.scheduler.get_lr()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def _evaluate(self) -> tuple[float, float]:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            results = self.test(self.cfg, self.judged_model)["bbox"]
        if math.isnan(results["AP"]):  # nothing was detected
            return 0.0, 0.0
        return results["AP"], results["AP50"]

    def _replace_checkpoint(self) -> None:
        earlier = periodic_checkpoints(self.cfg.OUTPUT_DIR)
        self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
        for file in earlier:
            file.unlink()
        remove_replaced(self.cfg.OUTPUT_DIR)

    def state_dict(self) -> dict[str, Any]:
        points = [asdict(point) for point in self.points]
        settings = {"seconds": self.seconds, "config": self.cfg.dump()}
        return {**super().state_dict(), "points": points, "settings": settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        settings = {"seconds": self.seconds, "config": self.cfg.dump()}
        if state_dict.get("settings") != settings:
            raise UserError(
                f"{self.cfg.OUTPUT_DIR} holds a training of other seconds or another config, which "
                "cannot be resumed: give the same, or another --output."
            )
        super().load_state_dict(state_dict)
        self.points = [Point(**point) for point in state_dict["points"]]


def plan_trainings(
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    output: str | Path,
    opts: Sequence[str] = (),
) -> dict[tuple[str, int], CfgNode]:
    """Read the configs of all trainings.

    Args:
        contenders: with different names.
        seeds: of each; a seed decides initial weights, order of the images and augmentation.
        output: gets a folder for each training.
        opts: ``KEY VALUE`` overrides of all configs.

    Returns:
        The config of each training, by the contender's name and seed.

    Raises:
        UserError: a config cannot be read, or names and datasets do not allow to compare.
    """
    if len({contender.name for contender in contenders}) < len(contenders):
        raise UserError("Contenders must have different names.")
    planned = {}
    for contender in contenders:
        for seed in seeds:
            cfg = load_config(contender.config_file, [*contender.opts, *opts])
            cfg.SEED = seed
            cfg.OUTPUT_DIR = str(Path(output, f"{contender.name}_{seed}"))
            # Everything in this process, whose time is taken, and nothing but training.
            cfg.MODEL.DEVICE = "cpu"
            cfg.DATALOADER.NUM_WORKERS = 0
            cfg.VIS_PERIOD = 0
            cfg.freeze()
            planned[contender.name, seed] = cfg
    first = next(iter(planned.values())).DATASETS
    for (name, _), cfg in planned.items():
        if first != cfg.DATASETS or len(cfg.DATASETS.TEST) != 1:
            raise UserError(
                "All contenders must have the same DATASETS.TRAIN and one and the same dataset in "
                f"DATASETS.TEST, but {name} has {cfg.DATASETS.TRAIN} and {cfg.DATASETS.TEST}. Give "
                "them at the end of the command line."
            )
    return planned


def take_turns(
    planned: dict[tuple[str, int], CfgNode],
    *,
    seconds: float,
    slice_seconds: float,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[dict[tuple[str, int], list[Point]]]:
    """Train all models in turn, a slice each, so that a neighbour's load meets all of them.

    Args:
        planned: see :func:`plan_trainings`.
        seconds: CPU seconds of each training.
        slice_seconds: after so many, a model is evaluated and the next one goes on.
        threads: of torch; the seconds of all of them count.
        resume: go on with the trainings in the output folders.
        overwrite: replace them.

    Yields:
        After each slice, what every training has learned so far. A training that diverges ends
        with an AP of 0.

    Raises:
        UserError: a training cannot start, or its folder holds one already.
    """
    torch.set_num_threads(threads)
    trainers = {}
    for key, cfg in planned.items():
        claim_output(cfg.OUTPUT_DIR, resume=resume, overwrite=overwrite)
        seed_all_rng(cfg.SEED)
        trainers[key] = TimedTrainer(cfg, seconds)
        trainers[key].resume_or_load(resume)
    unfinished = {key: trainer for key, trainer in trainers.items() if trainer.spent < seconds}
    while unfinished:
        # First who has learned least, which after a resumption may be anyone.
        key = min(unfinished, key=lambda name: unfinished[name].spent)
        trainer = unfinished[key]
        try:
            trainer.learn(slice_seconds)
            ends = trainer.spent >= seconds
        except FloatingPointError as error:
            logger.warning(f"{trainer.cfg.OUTPUT_DIR} ends early. {error}")
            trainer.points.append(Point(trainer.spent, trainer.start_iter, 0.0, 0.0))
            ends = True
        if ends:
            del unfinished[key]
        yield {key: list(trainer.points) for key, trainer in trainers.items()}
