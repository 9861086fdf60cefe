#!/usr/bin/env python
"""Measure what the hooks of a training take of an iteration in which nothing is evaluated.

On a terminal the bar counts, too.
"""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.cli.arguments import add_overrides, positive_number
from d2detr.config import load_config
from d2detr.engine import exit_on_user_error
from d2detr.measure.hooks import format_hooks, measure_hooks


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/quickstart.yaml")
    parser.add_argument("--blocks", type=positive_number, default=15, help="of 20 iterations")
    add_overrides(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    opts = ["OUTPUT_DIR", "output/benchmark_hooks", *args.opts]
    cfg = load_config(args.config_file, opts)
    print(format_hooks(measure_hooks(cfg, blocks=args.blocks)))


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
