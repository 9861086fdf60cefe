"""What a run says of itself at its start, and how."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from d2detr.errors import UserError

_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def set_up_logging(
    output_dir: str, rank: int, names: Sequence[str] = ("fvcore", "detectron2", "d2detr")
) -> None:
    """Log to the terminal, and without colours to ``log.txt`` in the output folder.

    Args:
        output_dir: of the run.
        rank: of this process; others than 0 are silent and write ``log.txt.rankN``.
        names: of the packages that log.
    """
    for name in names:
        for handler in setup_logger(output_dir, distributed_rank=rank, name=name).handlers:
            if getattr(handler, "stream", None) not in (sys.stdout, sys.stderr):
                handler.setFormatter(_PlainFormatter())
    logging.getLogger("detectron2.engine.train_loop").addFilter(_has_no_user_error)


class _PlainFormatter(logging.Formatter):
    def __init__(self):
        super().__init__("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return _COLOR.sub("", super().format(record))


def _has_no_user_error(record: logging.LogRecord) -> bool:
    """Leave out the traceback of what ends the program with one sentence anyway."""
    return not (record.exc_info and isinstance(record.exc_info[1], UserError))


def describe_run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Log versions, the command line and the whole config, once."""
    logger = logging.getLogger(__name__)
    logger.info(f"Process {comm.get_rank()} of {comm.get_world_size()}.")
    logger.info(f"Environment:\n{collect_env_info()}")
    logger.info(f"Command line arguments: {args}")
    logger.info(f"The whole config:\n{cfg.dump()}")
