#!/usr/bin/env python
"""Fine-tune DETR on a folder of images with COCO JSON, Pascal VOC or YOLO annotations."""

import argparse
from pathlib import Path

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.engine import add_launch_arguments, run, setup
from d2detr.engine.preparation import on_main_process
from d2detr.finetune.finetuning import plan_finetuning, run_finetuning


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
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
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    on_main_process(lambda: plan_finetuning(args))
    # What was planned is in the output folder, for every process to read.
    args.config_file, args.opts = str(Path(args.output) / "config.yaml"), []
    run_finetuning(setup(args), resume=args.resume)


if __name__ == "__main__":
    run(main, parse_args())
