import logging
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import Tensor, nn

from d2detr.checkpoint import (
    check_box_model_is_trained,
    load_frozen_weights,
    load_weights,
)
from d2detr.checkpoint.saving import FINAL_MODEL, RunCheckpointer, is_whole
from d2detr.data import (
    ResumableTrainLoader,
    build_dataset_mapper,
    in_batches,
    seed_random_numbers,
)
from d2detr.datasets import write_categories
from d2detr.engine.agreement import check_same_start
from d2detr.engine.best_checkpoint import BestCheckpointer
from d2detr.engine.confusion_picture import ConfusionPicture
from d2detr.engine.early_stopping import EarlyStop, EarlyStopping
from d2detr.engine.interruption import StopOnSignal
from d2detr.engine.output_folder import holds_checkpoint
from d2detr.engine.prediction_pictures import PredictionPictures
from d2detr.engine.preparation import on_main_process, prepare
from d2detr.engine.progress_bar import ProgressBar
from d2detr.engine.run_report import ReportWriter
from d2detr.engine.step import TrainingStep
from d2detr.engine.step_measures import StepMeasures
from d2detr.engine.trackers import build_trackers
from d2detr.engine.validation_losses import ValidationLosses
from d2detr.engine.weight_averaging import WeightAveraging
from d2detr.engine.writers import ErrorPrinter, TrainingPrinter
from d2detr.evaluation import build_evaluator
from d2detr.files import remove_partial
from d2detr.modeling import DETR
from d2detr.solver import build_optimizer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with DETR's data, optimizer and evaluators.

    Resuming continues the iteration, the optimizer, the schedule, the order of the images and all
    random numbers: on a CPU, an interrupted training ends with the very weights of an unbroken one.
    SIGINT and SIGTERM let the iteration end and write a checkpoint before they raise
    :class:`d2detr.engine.interruption.Interruption`. Losses are logged with one device-to-host copy
    per iteration.

    Args:
        cfg: a config with DETR's keys.

    Raises:
        UserError: the datasets cannot work, found before anything is built; or the config.
    """

    checkpointer: RunCheckpointer
    iter: int

    def __init__(self, cfg: CfgNode):
        prepare(cfg, with_weights=not holds_checkpoint(cfg.OUTPUT_DIR))
        # What evaluators lack is not to be found out after training.
        on_main_process(lambda: [self.build_evaluator(cfg, x) for x in cfg.DATASETS.TEST])
        super().__init__(cfg)
        if comm.is_main_process():
            write_categories(cfg)
        self.checkpointer.trusts_weights = cfg.MODEL.WEIGHTS_TRUSTED
        self._step = TrainingStep.from_config(cfg, self._trainer.model, self.optimizer)
        if cfg.SOLVER.AMP.ENABLED:
            self._trainer.grad_scaler = self._step.grad_scaler  # whose state checkpoints hold

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint in the output directory, or load those of the config.

        Raises:
            UserError: the weights cannot be had or fit nothing.
        """
        model, weights = self.checkpointer.model, self.cfg.MODEL.WEIGHTS
        detr, trusted = self.cfg.MODEL.DETR, self.cfg.MODEL.WEIGHTS_TRUSTED
        checkpoint = self.checkpointer.find_checkpoint() if resume else ""
        if checkpoint:
            self.checkpointer.load(checkpoint)
            self.start_iter = self.iter + 1
        elif detr.FROZEN_WEIGHTS:  # MODEL.WEIGHTS is empty then
            load_frozen_weights(model, detr.FROZEN_WEIGHTS, trusted=trusted)
        else:
            report = load_weights(model, weights, trusted=trusted)
            if detr.FREEZE_BOX_MODEL:
                check_box_model_is_trained(report, f"MODEL.WEIGHTS {weights}")
        self.data_loader.start_iter = self.start_iter

    def build_hooks(self) -> list[HookBase]:
        model, decay = self.checkpointer.model, self.cfg.SOLVER.EMA_DECAY
        self.averaging = WeightAveraging(model, decay) if decay else None
        self.checkpointer = RunCheckpointer(
            model,
            self.cfg.OUTPUT_DIR,
            averaged=self.averaging and self.averaging.averaged,
            trainer=weakref.proxy(self),
        )
        self._stop = StopOnSignal(self.checkpointer)
        built = super().build_hooks()
        if comm.is_main_process():
            built.insert(-1, StepMeasures(self.optimizer))  # before what writes
        if comm.is_main_process() and self.cfg.VIS_PERIOD > 0 and isinstance(model, DETR):
            pictures = PredictionPictures(
                model,
                self.cfg.VIS_PERIOD,
                image_format=self.cfg.INPUT.FORMAT,
                dataset_name=self.cfg.DATASETS.TRAIN[0],
            )
            built.insert(-1, pictures)  # before what writes them
        number, evaluation = next(
            (i, x) for i, x in enumerate(built) if isinstance(x, hooks.EvalHook)
        )
        if self.averaging:
            evaluation = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate_average)
        judges = self._build_validation()
        best = self._build_best_checkpointer(evaluation)
        self._best = next(iter(best), None)
        watching = [
            EarlyStopping(x, self.cfg.TEST.PATIENCE) for x in best if self.cfg.TEST.PATIENCE
        ]
        before, after = built[:number], built[number + 1 :]
        if self.averaging:
            before.insert(0, self.averaging)
        output, names, test = self.cfg.OUTPUT_DIR, self.cfg.DATASETS.TEST, self.cfg.TEST
        draws = names and self.cfg.VIS_PERIOD > 0
        drawing = [ConfusionPicture(test.EVAL_PERIOD, output, names[-1])] if draws else []
        reporting = [ReportWriter(output, names)] if test.REPORT else []
        return [
            ProgressBar(),
            *before,
            self._stop,
            *judges,
            evaluation,
            *best,
            *drawing,
            *after,
            *watching,
            *reporting,
        ]

    @property
    def judged_model(self) -> nn.Module:
        """What is evaluated and saved: the averaged weights, or without averaging the trained."""
        return self.averaging.averaged if self.averaging else self.checkpointer.model

    def _evaluate_average(self) -> dict[str, Any]:
        self._last_eval_results = self.test(self.cfg, self.judged_model)
        return self._last_eval_results

    def _build_validation(self) -> list[ValidationLosses]:
        cfg = self.cfg
        if not (cfg.TEST.LOSS_PERIOD and cfg.DATASETS.TEST):
            return []
        batch_size = max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())

        def build_loader(dataset_name: str) -> torch.utils.data.DataLoader:
            mapper = build_dataset_mapper(cfg, is_train=True, is_augmented=False)
            loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
            return in_batches(loader, batch_size)

        return [
            ValidationLosses(
                cfg.TEST.LOSS_PERIOD, self.judged_model, cfg.DATASETS.TEST, build_loader
            )
        ]

    def _build_best_checkpointer(self, evaluation: hooks.EvalHook) -> list[BestCheckpointer]:
        test, names = self.cfg.TEST, self.cfg.DATASETS.TEST
        if not (test.BEST_METRIC and names):
            return []
        metric = test.BEST_METRIC if len(names) == 1 else f"{names[0]}/{test.BEST_METRIC}"
        model, folder = self.judged_model, self.cfg.OUTPUT_DIR
        return [BestCheckpointer(evaluation, test.EVAL_PERIOD, model, folder, metric)]

    def best_is_last(self) -> bool:
        """Whether the best model is the one that was evaluated last, on the first process."""
        is_last = self._best is not None and self._best.best_iter == self.storage.iter
        return comm.all_gather(is_last)[0]

    def train(self) -> dict[str, Any] | None:
        """Train; returns the last evaluation's results, or None without evaluation.

        Raises:
            Interruption: SIGINT or SIGTERM came; the message says how to go on.
            UserError: several processes would start from different weights.
        """
        check_same_start(self.checkpointer.model, self.start_iter)
        if comm.is_main_process():
            remove_partial(self.cfg.OUTPUT_DIR)
            self._complete_finished_training()
        with self._stop.watching():
            try:
                super().train()
            except EarlyStop as stop:
                logger.info(stop)
                self.iter = stop.iteration
                self.checkpointer.save(FINAL_MODEL, iteration=stop.iteration)
        return getattr(self, "_last_eval_results", None)

    def stop_loading(self) -> None:
        """End the processes that load the training data; nothing can be trained afterwards."""
        close = getattr(self._trainer._data_loader_iter, "close", None)
        if close is not None:
            close()

    def _complete_finished_training(self) -> None:
        final = Path(self.cfg.OUTPUT_DIR, f"{FINAL_MODEL}.pth")
        is_finished = 0 < self.start_iter == self.max_iter
        if is_finished and not is_whole(final):
            logger.warning(f"{final} cannot be read, though training is over: writing it.")
            self.checkpointer.save(FINAL_MODEL, iteration=self.iter)

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # Detectron2 counts one more if nothing was left
        if not self._stop.received:
            super().after_train()
            return
        self.storage.iter = self.iter
        for hook in self._hooks:
            if not isinstance(hook, hooks.EvalHook | hooks.BestCheckpointer | ReportWriter):
                hook.after_train()

    def run_step(self) -> None:
        # Detectron2's own steps wait for the device once per loss, and need CUDA for AMP.
        start = time.perf_counter()
        data = next(self._trainer._data_loader_iter)
        data_time = time.perf_counter() - start
        seed_random_numbers(self.data_loader.seed, self.iter, comm.get_rank())
        try:
            losses = self._step.compute_gradients(data)
        except FloatingPointError as error:
            raise FloatingPointError(self._explain_divergence(error, data)) from None
        self._log_losses(losses, data_time)
        self._stop.begin_update()
        self._step.update()

    def _explain_divergence(self, error: FloatingPointError, data: list[dict[str, Any]]) -> str:
        names = ", ".join(str(record.get("file_name", "without a name")) for record in data)
        return (
            f"{error} at iteration {self.iter}, images {names}. The training has diverged: lower "
            "SOLVER.BASE_LR, clip gradients (SOLVER.CLIP_GRADIENTS) or train without SOLVER.AMP. "
            "If it happens in the first iteration, check MODEL.WEIGHTS and the images."
        )

    def _log_losses(self, losses: dict[str, Tensor], data_time: float) -> None:
        values = torch.stack([x.float() for x in losses.values()]).tolist()
        gathered = comm.all_gather((values, data_time, self._stop.received))
        self._stop.agree(signal for _, _, signal in gathered)
        mean = np.mean([values for values, _, _ in gathered], axis=0)
        named = dict(zip(losses, mean.tolist(), strict=True))
        if not np.isfinite(mean).all():
            raise FloatingPointError(f"A loss is not finite at iteration {self.iter}: {named}.")
        if comm.is_main_process():
            self.storage.put_scalars(total_loss=mean.sum().item(), **named)
            self.storage.put_scalar("data_time", max(data_time for _, data_time, _ in gathered))

    def build_writers(self) -> list[EventWriter]:
        _, *others = super().build_writers()
        trackers = build_trackers(self.cfg)
        return [TrainingPrinter(self.max_iter), ErrorPrinter(), *others, *trackers]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sampler_seed": self.data_loader.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scaler, inner = getattr(self._trainer, "grad_scaler", None), state_dict.get("_trainer")
        if scaler is not None and inner and not inner.get("grad_scaler"):
            # Of a run in another precision; the scale starts anew.
            inner = {**inner, "grad_scaler": scaler.state_dict()}
            state_dict = {**state_dict, "_trainer": inner}
        super().load_state_dict(state_dict)
        self.data_loader.seed = state_dict.get("sampler_seed", self.data_loader.seed)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableTrainLoader:
        return ResumableTrainLoader(cfg, build_dataset_mapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> torch.utils.data.DataLoader:
        mapper = build_dataset_mapper(cfg, is_train=False)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return in_batches(loader, cfg.TEST.IMS_PER_BATCH)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)
