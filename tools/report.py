#!/usr/bin/env python
"""Write what there is to see of runs into one HTML file: curves, AP, mistakes, pictures, data."""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.engine import exit_on_user_error
from d2detr.report import write_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--output", help="default: report.html in the folder of the run, or here for several"
    )
    parser.add_argument(
        "--dataset", help="that was evaluated; default: what the config of the run says"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    print(f"Written: {write_report(args.runs, args.output, dataset_name=args.dataset)}")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
