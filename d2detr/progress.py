"""How far something is: a bar on a terminal, plain lines in the log of anything else."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils import comm
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# Whose lines go above the bar.
_LOGGERS = ("detectron2", "fvcore", "d2detr")
SECONDS_BETWEEN_LINES = 10

logger = logging.getLogger(__name__)


@contextmanager
def progress(
    total: int | None, description: str, unit: str, *, done: int = 0, logs: bool = True
) -> Iterator[tqdm]:
    """Show how far something is, in the main process.

    Args:
        total: how much there is to do, None if that is not known.
        description: what is done.
        unit: of ``total``, in the plural.
        done: how much of it is done already.
        logs: without a terminal, log a line every ten seconds; else nothing is shown then.

    Yields:
        The bar, to be told by ``update`` what has been done.
    """
    if comm.is_main_process() and sys.stderr.isatty():
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        with (
            logging_redirect_tqdm(loggers),
            _Bar(
                total=total,
                desc=description,
                unit=f" {unit}",
                initial=done,
                leave=False,
                dynamic_ncols=True,
            ) as bar,
        ):
            yield bar
    else:
        with _Lines(
            total=total,
            desc=description,
            unit=unit,
            initial=done,
            leave=False,
            file=io.StringIO(),
            mininterval=SECONDS_BETWEEN_LINES,
            delay=SECONDS_BETWEEN_LINES,
            disable=not (logs and comm.is_main_process()),
            bar_format="{desc}: {n_fmt} of {total_fmt} {unit}, {remaining} left",
        ) as lines:
            yield lines


class _Bar(tqdm):
    monitor_interval = 0  # no thread, which forked workers would have copies of


class _Lines(_Bar):
    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None:  # else it is to be wiped out
            logger.info(str(self))
