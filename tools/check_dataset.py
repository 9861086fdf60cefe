#!/usr/bin/env python
"""Look for everything that can be wrong with a dataset; the status is 1 if training must not start.

Registered datasets are called by their name, folders by their path.
"""

import argparse
import json
import logging
import sys

import d2detr  # noqa: F401 registers the embedded datasets
from d2detr.doctor import check_dataset, fix_dataset
from d2detr.engine import exit_on_user_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="folder, COCO JSON file, data.yaml, or name of a dataset")
    parser.add_argument("--decode", action="store_true", help="decode every image")
    parser.add_argument("--val", help="the same of the dataset for validation, if it is another")
    parser.add_argument("--masks", action="store_true", help="a mask model is to be trained")
    parser.add_argument("--queries", type=int, default=100, help="of the model to be trained")
    parser.add_argument("--json", action="store_true", help="print the report for machines")
    parser.add_argument("--fix", metavar="OUT", help="write corrected COCO JSON to this folder")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_user_error():
        report = check_dataset(
            args.dataset, args.decode, args.queries, val=args.val, trains_masks=args.masks
        )
        print(json.dumps(report.as_dict(), indent=2) if args.json else report)
        if args.fix:
            print(*fix_dataset(report, args.fix), sep="\n", file=sys.stderr)
    sys.exit(bool(report.errors))


if __name__ == "__main__":
    main()
