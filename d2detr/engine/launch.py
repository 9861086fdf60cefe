"""What a command-line tool does before and around its work."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser as detectron2_argument_parser
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from d2detr.checkpoint.saving import WholeFiles
from d2detr.config import check_training_settings, load_config
from d2detr.engine.group import find_group
from d2detr.engine.interruption import (
    Interruption,
    handling_signals,
    interrupt,
    pass_on_to_children,
)
from d2detr.engine.output_folder import set_run_aside
from d2detr.engine.processes import launch_processes
from d2detr.engine.run_log import describe_run, set_up_logging
from d2detr.errors import UserError
from d2detr.files import make_folder

logger = logging.getLogger(__name__)

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config of the command line, start logging, write ``config.yaml`` and seed.

    A run that is in the output folder already, and that ``args`` does not resume or evaluate, is
    set aside in ``previous-N`` there.

    Args:
        args: of Detectron2's ``default_argument_parser``.

    Returns:
        The frozen config.
    """
    cfg = load_config(args.config_file, args.opts)
    evaluates = getattr(args, "eval_only", False)
    if not evaluates:
        check_training_settings(cfg)  # before a run is set aside for one that cannot start
    rank, output = comm.get_rank(), cfg.OUTPUT_DIR
    previous = None
    if "://" not in output and comm.is_main_process():
        make_folder(output)
        previous = None if args.resume or evaluates else set_run_aside(output)
    previous = comm.all_gather(previous)[0]
    if previous is not None:
        cfg.MODEL.WEIGHTS = _follow(cfg.MODEL.WEIGHTS, output, previous)
        cfg.MODEL.DETR.FROZEN_WEIGHTS = _follow(cfg.MODEL.DETR.FROZEN_WEIGHTS, output, previous)
    cfg.freeze()
    set_up_logging(output, rank)
    describe_run(cfg, args)
    if previous is not None:
        logger.warning(
            f"{output} holds another run, which is in {previous} now. To go on with it, move it "
            "back and add --resume."
        )
    if comm.is_main_process():
        with WholeFiles().open(os.path.join(output, "config.yaml"), "w") as file:
            file.write(cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not evaluates:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.MODEL.DEVICE == "cpu":
        logger.warning("There is no GPU, or MODEL.DEVICE is cpu: this runs on the CPU.")
    return cfg


def _follow(weights: str, output: str, previous: Path) -> str:
    """Return where weights are, after the run that they may belong to was moved."""
    moved = previous / Path(weights).name
    was_inside = weights and Path(weights).resolve().parent == Path(output).resolve()
    return str(moved) if was_inside and moved.exists() else weights


def default_argument_parser() -> argparse.ArgumentParser:
    """Return Detectron2's parser, which tells for :func:`run` what was given and what was not."""
    parser = detectron2_argument_parser()
    parser.set_defaults(num_gpus=None, num_machines=None, machine_rank=None, dist_url=None)
    return parser


def run(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process that ``args``, ``torchrun`` or Slurm ask for.

    A :class:`UserError` ends the program with its message alone and status 1, and so does a process
    that dies, with one sentence that names it.
    """
    with exit_on_user_error():
        group = find_group(args)
        cfg = load_config(args.config_file, args.opts)
        log = Path(getattr(args, "output", cfg.OUTPUT_DIR), "log.txt")
        with handling_signals(pass_on_to_children):
            launch_processes(_run_worker, (main, args), group, str(log))


def _run_worker(main: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> None:
    with exit_on_user_error():
        main(args)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the program with a :class:`UserError`'s message alone and status 1.

    A signal ends it with one sentence, too, and 128 and its number as the status; a full disk with
    status 1.
    """
    try:
        with handling_signals(interrupt):
            yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except Interruption as interruption:
        if comm.is_main_process():
            print(interruption, file=sys.stderr)
        sys.exit(128 + interruption.signal)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        sys.exit(f"error: {error.filename or 'The output'} cannot be written: {error.strerror}.")
