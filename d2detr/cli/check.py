"""Look for everything that can be wrong with a dataset; the status is 1 if training must not start.

Registered datasets are called by their name, folders by their path.
"""

import argparse
import json
import logging
import sys

from d2detr.cli.arguments import positive_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="folder, COCO JSON file, data.yaml, or name of a dataset")
    parser.add_argument("--decode", action="store_true", help="decode every image")
    parser.add_argument("--val", help="the same of the dataset for validation, if it is another")
    parser.add_argument("--masks", action="store_true", help="a mask model is to be trained")
    parser.add_argument(
        "--queries", type=positive_number, default=100, help="of the model to be trained"
    )
    parser.add_argument("--json", action="store_true", help="print the report for machines")
    parser.add_argument("--fix", metavar="OUT", help="write corrected COCO JSON to this folder")


def main(args: argparse.Namespace) -> bool:
    """Report; returns whether training must not start."""
    from d2detr.doctor import check_dataset, fix_dataset

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = check_dataset(
        args.dataset, args.decode, args.queries, val=args.val, trains_masks=args.masks
    )
    print(json.dumps(report.as_dict(), indent=2) if args.json else report)
    if args.fix:
        print(*fix_dataset(report, args.fix), sep="\n", file=sys.stderr)
    return bool(report.errors)
