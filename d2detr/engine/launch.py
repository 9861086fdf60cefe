"""What a command-line tool does before and around its work."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from d2detr.config import load_config
from d2detr.errors import UserError
from d2detr.files import make_folder


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config of the command line, start logging and write ``config.yaml``.

    Args:
        args: of Detectron2's ``default_argument_parser``.

    Returns:
        The frozen config.
    """
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    if "://" not in cfg.OUTPUT_DIR:
        make_folder(cfg.OUTPUT_DIR)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="d2detr")
    default_setup(cfg, args)
    if cfg.MODEL.DEVICE == "cpu":
        logger.warning("There is no GPU, or MODEL.DEVICE is cpu: this runs on the CPU.")
    return cfg


def run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` on every worker that ``args`` asks for.

    A :class:`UserError` ends the program with its message alone and status 1.
    """
    try:
        launch(
            _run_worker,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except torch.multiprocessing.ProcessExitedException as error:
        sys.exit(error.exit_code)


def _run_worker(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    with exit_on_user_error():
        main(args)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program with a :class:`UserError`'s message alone and status 1."""
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
