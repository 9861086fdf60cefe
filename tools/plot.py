#!/usr/bin/env python
"""Draw the curves of trainings: losses, AP, errors, learning rate, gradients, time and memory."""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.arguments import positive_number
from d2detr.engine import exit_on_user_error
from d2detr.visualization import plot_runs
from d2detr.visualization.curves import PANEL_KEYS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a run, its metrics.json, or the log.txt of the original DETR",
    )
    parser.add_argument(
        "--output", default="curves.png", help=".png, .svg or .pdf (default: %(default)s)"
    )
    parser.add_argument("--layers", action="store_true", help="losses of every decoder layer")
    parser.add_argument("--panels", nargs="+", choices=PANEL_KEYS, default=(), help="only these")
    parser.add_argument(
        "--iterations-per-epoch",
        type=positive_number,
        metavar="N",
        help="draw over epochs: needed to compare with the original DETR, which counts these",
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    plot_runs(
        args.runs,
        args.output,
        layers=args.layers,
        panels=args.panels,
        iterations_per_epoch=args.iterations_per_epoch,
    )
    print(f"Drawn: {args.output}")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
