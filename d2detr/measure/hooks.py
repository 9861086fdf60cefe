"""What the hooks of a training cost, beside its steps."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from d2detr.engine import Trainer

STEP = "step"
_BLOCK = 20  # iterations from one writing of metrics to the next


def measure_hooks(cfg: CfgNode, *, blocks: int, warmup: int = 1) -> dict[str, float]:
    """Train, and measure what each hook takes of an iteration in which nothing is evaluated.

    It is CPU time of this process with all of its threads, so that neighbours hardly count. The
    trained model is lost.

    Args:
        cfg: of the training, whose evaluations and checkpoints are put off.
        blocks: of 20 iterations, at the end of which metrics are written.
        warmup: blocks before that are not counted.

    Returns:
        CPU seconds of an iteration by name of the hook, and of the step alone as "step": medians
        of the blocks' means.
    """
    iterations = (warmup + blocks) * _BLOCK
    cfg = cfg.clone()
    # Periods are what they are in the config, but for those that would come during the measurement.
    cfg.SOLVER.MAX_ITER = max(cfg.SOLVER.MAX_ITER, 2 * iterations)
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.LOSS_PERIOD = cfg.TEST.EVAL_PERIOD = 2 * iterations
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    clock = _Clock()
    measured = [_Measured(hook, clock) for hook in trainer._hooks]
    with EventStorage(0) as trainer.storage:
        trainer.before_train()
        trainer._hooks = measured
        for trainer.iter in range(iterations):
            trainer.before_step()
            with_step = time.process_time()
            trainer.run_step()
            clock.add(STEP, time.process_time() - with_step)
            trainer.after_step()
            if (trainer.iter + 1) % _BLOCK == 0:
                clock.end_block()
    trainer.stop_loading()
    return clock.medians(warmup)


class _Clock:
    def __init__(self) -> None:
        self._block: defaultdict[str, float] = defaultdict(float)
        self._blocks: list[dict[str, float]] = []

    def add(self, name: str, seconds: float) -> None:
        self._block[name] += seconds

    def end_block(self) -> None:
        self._blocks.append(dict(self._block))
        self._block.clear()

    def medians(self, warmup: int) -> dict[str, float]:
        counted = self._blocks[warmup:]
        names = dict.fromkeys(name for block in counted for name in block)
        return {
            name: statistics.median(block.get(name, 0.0) for block in counted) / _BLOCK
            for name in names
        }


class _Measured(HookBase):
    """A hook whose work around steps is measured."""

    def __init__(self, hook: Any, clock: _Clock):
        self._hook = hook
        self._clock = clock

    def before_step(self) -> None:
        self._measure(self._hook.before_step)

    def after_backward(self) -> None:
        self._measure(self._hook.after_backward)

    def after_step(self) -> None:
        self._measure(self._hook.after_step)

    def _measure(self, work: Any) -> None:
        start = time.process_time()
        work()
        self._clock.add(type(self._hook).__name__, time.process_time() - start)


def format_hooks(seconds: dict[str, float]) -> str:
    """A table, the most expensive hook first, in shares of the step."""
    step = seconds[STEP]
    hooks = {name: x for name, x in seconds.items() if name != STEP}
    rows = [*sorted(hooks.items(), key=lambda item: -item[1]), ("all hooks", sum(hooks.values()))]
    lines = [f"step {1000 * step:.1f} ms of CPU time"]
    lines += [f"{name:<22} {1e6 * x:8.1f} us  {x / step:8.3%}" for name, x in rows]
    return "\n".join(lines)
