#!/usr/bin/env python
"""Measure how inference and losses grow with queries, image size and batch.

Beside the times stands what is computed.

Keep the machine quiet.
"""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.cli.arguments import positive_number
from d2detr.engine import exit_on_user_error
from d2detr.files import make_folder, write_json
from d2detr.measure import parse_size
from d2detr.measure.growth import draw_growth, format_growth, growth_report, measure_growth


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/dab_detr_r50.yaml")
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--queries", type=positive_number, nargs="+", default=[100, 300, 900])
    parser.add_argument(
        "--sizes", nargs="+", default=["400x533", "600x800", "800x1066", "1200x1600"]
    )
    parser.add_argument("--batches", type=positive_number, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=positive_number, default=5, help="timed steps of each")
    parser.add_argument("--output", default="output/benchmark_growth")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE pairs of the config")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    settings = {
        "config_file": args.config_file,
        "opts": tuple(args.opts),
        "size": parse_size(args.size),
    }
    grown = measure_growth(
        settings,
        queries=args.queries,
        sizes=[parse_size(size) for size in args.sizes],
        batches=args.batches,
        rounds=args.rounds,
    )
    output = make_folder(args.output)
    print(format_growth(grown))
    draw_growth(grown, output / "growth.png")
    write_json(output / "growth.json", growth_report(settings, grown), indent=2)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
