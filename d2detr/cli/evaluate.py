"""Evaluate a model on the test datasets of its config."""

import argparse

from d2detr.cli.arguments import add_launch_arguments, add_overrides
from d2detr.cli.train import add_config_arguments, main

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="the last checkpoint in OUTPUT_DIR")
    add_launch_arguments(parser)
    add_overrides(parser)
    parser.set_defaults(eval_only=True)
