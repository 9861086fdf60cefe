"""Ending a training that no longer gets better."""

from __future__ import annotations

from detectron2.engine import HookBase

from d2detr.engine.best_checkpoint import BestCheckpointer


class EarlyStop(BaseException):
    """The training has got no better for too long.

    No error, and so no Exception, of which Detectron2's trainers log a traceback.

    Attributes:
        iteration: the last one.
    """

    def __init__(self, message: str, iteration: int):
        super().__init__(message)
        self.iteration = iteration


class EarlyStopping(HookBase):
    """Ends a training by :class:`EarlyStop` once evaluations have not got better for long enough.

    It raises from the trainer's ``train()``, which has by then ended all of its hooks. Every
    process must have this hook, as the last one.

    Args:
        best: the hook that knows which evaluation was the best.
        patience: evaluations in a row without a better one that end the training.
    """

    def __init__(self, best: BestCheckpointer, patience: int):
        self._best = best
        self._patience = patience

    def before_train(self) -> None:
        self._check(self.trainer.start_iter)  # of a run that is resumed after it has ended so

    def after_step(self) -> None:
        if self._best.is_due(self.trainer.iter + 1):
            self._check(self.trainer.iter + 1)

    def _check(self, iterations: int) -> None:
        evaluations = self._best.evaluations_without_gain()
        if evaluations >= self._patience and iterations < self.trainer.max_iter:
            raise EarlyStop(
                f"Training ends early, after {iterations} of {self.trainer.max_iter} iterations: "
                f"{self._best.metric} has not got better in the last {evaluations} evaluations. "
                "A higher TEST.PATIENCE and --resume go on.",
                iteration=iterations - 1,
            )
