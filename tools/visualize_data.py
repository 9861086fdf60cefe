#!/usr/bin/env python
"""Draw images of a dataset with their annotations, or as training sees them, as a grid."""

import argparse
import sys

import d2detr  # noqa: F401 registers the embedded datasets
from d2detr.arguments import positive_number
from d2detr.config import load_config
from d2detr.engine import exit_on_user_error
from d2detr.visualization import draw_data


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", help="name, or auto:PATH:SPLIT; default: that of the config")
    parser.add_argument("--config-file", help="draw what the training mapper of this config yields")
    parser.add_argument("--output", required=True, help="picture to write, such as grid.png")
    parser.add_argument(
        "--num-images", type=positive_number, default=12, help="images, drawn at random"
    )
    parser.add_argument("--columns", type=positive_number, default=4)
    parser.add_argument("--seed", type=int, default=0, help="decides images and augmentation")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    args = parser.parse_args()
    if not args.dataset and not args.config_file:
        parser.error("give --dataset, --config-file or both")
    return args


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts) if args.config_file else None
    draw_data(
        args.dataset or cfg.DATASETS.TRAIN[0],
        args.output,
        cfg=cfg,
        num_images=args.num_images,
        columns=args.columns,
        seed=args.seed,
    )
    print(f"Drawn: {args.output}")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
