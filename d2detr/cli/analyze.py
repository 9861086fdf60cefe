"""Count a model's parameters and multiply-adds, and measure the memory of its activations.

Needs neither weights nor datasets.
"""

import argparse

from d2detr.cli.arguments import add_overrides, positive_number

TASKS = ("parameter", "flop", "activation", "structure")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=TASKS[:3])
    parser.add_argument("--size", default="800x1200", help="HEIGHTxWIDTH of the images, in pixels")
    parser.add_argument("--batch", type=positive_number, default=1, help="number of images")
    parser.add_argument(
        "--depth", type=positive_number, default=2, help="of the modules in the table"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers of all modules")
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    from d2detr.config import load_config
    from d2detr.files import write_json
    from d2detr.measure import analyze, parse_size

    size = parse_size(args.size)
    cfg = load_config(args.config_file, args.opts)
    analysis = analyze(cfg, args.tasks, size=size, batch=args.batch)
    print(analysis.describe(args.depth))
    if args.json:
        source = {"config_file": args.config_file, "size": size, "batch": args.batch}
        write_json(args.json, {**source, **analysis.as_dict()}, indent=2)
