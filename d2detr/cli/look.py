"""Draw images of a dataset with their annotations, or as training sees them, as a grid."""

import argparse

from d2detr.cli.arguments import add_overrides, positive_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="name, or auto:PATH:SPLIT; default: that of the config")
    parser.add_argument("--config-file", help="draw what the training mapper of this config yields")
    parser.add_argument("--output", required=True, help="picture to write, such as grid.png")
    parser.add_argument(
        "--num-images", type=positive_number, default=12, help="images, drawn at random"
    )
    parser.add_argument("--columns", type=positive_number, default=4)
    parser.add_argument("--seed", type=int, default=0, help="decides images and augmentation")
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    from d2detr.config import load_config
    from d2detr.errors import UserError
    from d2detr.visualization import draw_data

    cfg = load_config(args.config_file, args.opts) if args.config_file else None
    dataset = args.dataset or (cfg.DATASETS.TRAIN[0] if cfg is not None else "")
    if not dataset:
        raise UserError("Give --dataset, --config-file or both.")
    draw_data(
        dataset,
        args.output,
        cfg=cfg,
        num_images=args.num_images,
        columns=args.columns,
        seed=args.seed,
    )
    print(f"Drawn: {args.output}")
