#!/usr/bin/env python
"""Count a model's parameters and multiply-adds, and measure the memory of its activations.

Needs neither weights nor datasets.
"""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.arguments import positive_number
from d2detr.config import load_config
from d2detr.engine import exit_on_user_error
from d2detr.files import write_json
from d2detr.measure import COST_TASKS, analyze, parse_size


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--tasks", choices=COST_TASKS, nargs="+", default=COST_TASKS[:3])
    parser.add_argument("--size", default="800x1200", help="HEIGHTxWIDTH of the images, in pixels")
    parser.add_argument("--batch", type=positive_number, default=1, help="number of images")
    parser.add_argument(
        "--depth", type=positive_number, default=2, help="of the modules in the table"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers of all modules")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    size = parse_size(args.size)
    cfg = load_config(args.config_file, args.opts)
    analysis = analyze(cfg, args.tasks, size=size, batch=args.batch)
    print(analysis.describe(args.depth))
    if args.json:
        source = {"config_file": args.config_file, "size": size, "batch": args.batch}
        write_json(args.json, {**source, **analysis.as_dict()}, indent=2)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
