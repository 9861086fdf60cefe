"""Draw COCO results beside the ground truth, as a grid of images, and count the mistakes."""

import argparse

from d2detr.cli.arguments import positive_number, score

ORDERS = (
    "first",
    "worst",
    "wrong_class",
    "misplaced",
    "duplicate",
    "background",
    "missed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, help="name of a dataset, or auto:PATH:SPLIT")
    parser.add_argument(
        "--results", required=True, help="coco_instances_results.json or panoptic.json"
    )
    parser.add_argument("--output", required=True, help="picture to write, such as grid.png")
    parser.add_argument("--num-images", type=positive_number, default=12, help="images to draw")
    parser.add_argument("--order", choices=ORDERS, default="worst", help="which images come first")
    parser.add_argument("--columns", type=positive_number, default=3)
    parser.add_argument("--score-threshold", type=score, default=0.5)


def main(args: argparse.Namespace) -> None:
    from d2detr.visualization import draw_results

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
