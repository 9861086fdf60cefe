#!/usr/bin/env python
"""Draw COCO results beside the ground truth, as a grid of images, and count the mistakes."""

import argparse
import sys

import d2detr  # noqa: F401 registers the embedded datasets
from d2detr.arguments import positive_number, score
from d2detr.engine import exit_on_user_error
from d2detr.visualization import draw_results
from d2detr.visualization.results import ORDERS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of a dataset, or auto:PATH:SPLIT")
    parser.add_argument(
        "--results", required=True, help="coco_instances_results.json or panoptic.json"
    )
    parser.add_argument("--output", required=True, help="picture to write, such as grid.png")
    parser.add_argument("--num-images", type=positive_number, default=12, help="images to draw")
    parser.add_argument("--order", choices=ORDERS, default="worst", help="which images come first")
    parser.add_argument("--columns", type=positive_number, default=3)
    parser.add_argument("--score-threshold", type=score, default=0.5)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    mistakes = draw_results(
        args.dataset,
        args.results,
        args.output,
        num_images=args.num_images,
        columns=args.columns,
        score_threshold=args.score_threshold,
        order=args.order,
    )
    counts = ", ".join(f"{kind} {count}" for kind, count in mistakes.items())
    print(
        f"Drawn: {args.output}" + (f"; mistakes in the whole dataset: {counts}" if counts else "")
    )


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
