"""Fine-tune DETR on a folder of images with COCO JSON, Pascal VOC or YOLO annotations."""

import argparse
from pathlib import Path

from d2detr.cli.arguments import add_launch_arguments, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="folder, COCO JSON file or data.yaml")
    parser.add_argument("--val", help="the same for validation; default: found in --data")
    parser.add_argument(
        "--weights",
        default="detr://detr_r50",
        help='checkpoint, folder of a run, detr://NAME, or "" to train from scratch',
    )
    parser.add_argument("--output", default="output/finetune", help="folder for everything")
    parser.add_argument("--config-file", help="default: the config that belongs to --weights")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --output")
    add_launch_arguments(parser)
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    from d2detr.engine import setup
    from d2detr.engine.preparation import on_main_process
    from d2detr.finetune.finetuning import plan_finetuning, run_finetuning

    on_main_process(lambda: plan_finetuning(args))
    # What was planned is in the output folder, for every process to read.
    args.config_file, args.opts = str(Path(args.output) / "config.yaml"), []
    run_finetuning(setup(args), resume=args.resume)
