"""Draw the curves of trainings: losses, AP, errors, learning rate, gradients, time and memory."""

import argparse

from d2detr.cli.arguments import positive_number

PANELS = (
    "loss",
    "ap",
    "class",
    "l1",
    "giou",
    "mask",
    "dice",
    "class_error",
    "cardinality",
    "lr",
    "gradient",
    "time",
    "memory",
    "class_dn",
    "l1_dn",
    "giou_dn",
    "class_enc",
    "l1_enc",
    "giou_enc",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=(), help="only these")
    parser.add_argument(
        "--iterations-per-epoch",
        type=positive_number,
        metavar="N",
        help="draw over epochs: needed to compare with the original DETR, which counts these",
    )


def main(args: argparse.Namespace) -> None:
    from d2detr.visualization import plot_runs

    plot_runs(
        args.runs,
        args.output,
        layers=args.layers,
        panels=args.panels,
        iterations_per_epoch=args.iterations_per_epoch,
    )
    print(f"Drawn: {args.output}")
