"""SIGINT and SIGTERM: nothing is cut off that could not be gone on with."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2detr.checkpoint.saving import RunCheckpointer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# One wish to stop may come as two signals: of the terminal, and of the process that started this.
# A process that is busy notices them whenever it can, so that times tell nothing.
_ENOUGH_PATIENCE = 3


class Interruption(KeyboardInterrupt):
    """The user, or the system, wants this process to end.

    Attributes:
        signal: its number.
    """

    def __init__(self, number: int, message: str = ""):
        name = signal.Signals(number).name
        super().__init__(message or f"Stopped by {name}.")
        self.signal = number


class StopOnSignal(HookBase):
    """Ends a training that gets a signal, with a checkpoint, in all its processes alike.

    An iteration that has begun ends first, unless a third signal comes. An evaluation is broken
    off. It must come after the hook that changes the learning rate and before those that evaluate.

    Args:
        checkpointer: of the training.

    Attributes:
        received: the number of the signal that came, or 0.
    """

    def __init__(self, checkpointer: RunCheckpointer):
        self._checkpointer = checkpointer
        self.received = 0
        self._signals = 0
        self._agreed = 0
        self._waits = False  # a signal is only noted
        self._is_over = False  # all that is left is to save
        self._whole_iteration: int | None = None  # None while an update is under way

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over the training of ``self.trainer``.

        Raises:
            Interruption: it was stopped; the message says how to go on.
        """
        self._whole_iteration = self.trainer.start_iter - 1
        with handling_signals(self._receive):
            try:
                yield
            except BaseException as error:
                if not self.received:
                    raise
                self._save()
                raise self._explanation() from (None if isinstance(error, Interruption) else error)

    def before_step(self) -> None:
        self._waits = True

    def agree(self, received: Iterable[int]) -> None:
        """Take note of what all processes have received, which is the same for all of them."""
        self._agreed = max(received)

    def begin_update(self) -> None:
        """Take note that weights and optimizer are neither of this iteration nor of the last."""
        self._whole_iteration = None

    def after_step(self) -> None:
        self._whole_iteration = self.trainer.iter
        self._waits = False
        # What came after the losses were gathered can wait for the next iteration, if there is one.
        if self.trainer.iter + 1 == self.trainer.max_iter or comm.get_world_size() == 1:
            self.agree(comm.all_gather(self.received))
        if self._agreed:
            self.received = self._agreed
            self._save()
            comm.synchronize()  # a process that ended earlier would have the others killed
            raise Interruption(self.received)

    def _receive(self, number: int) -> None:
        if self._is_over:
            return
        self._signals += 1
        self.received = self.received or number
        if self._signals >= _ENOUGH_PATIENCE or not self._waits:
            raise Interruption(number)

    def _save(self) -> None:
        self._is_over = True
        whole = self._whole_iteration
        if whole is not None and whole >= self.trainer.start_iter and comm.is_main_process():
            self.trainer.iter = whole
            if self._checkpointer.saved_iteration != whole:
                self._checkpointer.save(f"model_{whole:07d}", iteration=whole)
        self.trainer.stop_loading()

    def _explanation(self) -> Interruption:
        name, folder = signal.Signals(self.received).name, self._checkpointer.save_dir
        if self._whole_iteration is None:
            where = f"go on from the last checkpoint in {folder}"
        elif self._whole_iteration < 0:
            where = "there is nothing to save yet. Start again"
        else:
            where = f"{self._whole_iteration + 1} iterations are saved in {folder}. Go on"
        return Interruption(self.received, f"Stopped by {name}: {where} with --resume.")


@contextmanager
def handling_signals(receive: Callable[[int], None]) -> Iterator[None]:
    """Call ``receive`` with the number of a signal that comes, in the main thread of a process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            receive(number)
        elif number == signal.SIGTERM:  # a forked worker; it leaves SIGINT to its parent
            os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def interrupt(number: int) -> None:
    """Raise :class:`Interruption`."""
    raise Interruption(number)


def pass_on_to_children(number: int) -> None:
    """Send a signal to the processes that this one started, and go on waiting for them."""
    for child in multiprocessing.active_children():
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, number)
