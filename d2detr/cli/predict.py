"""Detect objects in images, a video or the frames of a webcam.

The arguments are those of Detectron2's demo; its --opts may be left out.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from d2detr.cli.arguments import add_overrides, positive_number, score

if TYPE_CHECKING:
    from d2detr.export.predictor import ExportedPredictor
    from d2detr.predict.predictor import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", help="YAML file, name of a config, or folder of a run")
    model.add_argument("--model", help="file that d2detr export wrote")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images, globs in quotes, and folders")
    source.add_argument("--video-input", help="video file")
    source.add_argument(
        "--webcam", nargs="?", type=int, const=0, metavar="INDEX", help="until Ctrl-C"
    )
    parser.add_argument("--output", default="output/predictions", help="folder for the results")
    parser.add_argument("--weights", help="default: those of the run, or MODEL.WEIGHTS")
    parser.add_argument("--confidence-threshold", type=score, default=0.5, help="lowest score")
    parser.add_argument("--batch-size", type=positive_number, default=1, help="images at a time")
    add_overrides(parser, "--opts")


def main(args: argparse.Namespace) -> bool:
    """Predict; returns whether files could not be read."""
    from d2detr.predict.inputs import Video, find_images
    from d2detr.predict.predictions import predict_images, predict_video

    files = find_images(args.input) if args.input else []
    predictor = build_predictor(args)
    if not args.input:
        source = args.video_input if args.video_input is not None else args.webcam
        predict_video(predictor, Video(source), args.output, args.batch_size)
        return False
    unreadable = predict_images(predictor, files, args.output, args.batch_size)
    print(f"Results: {args.output}")
    if unreadable:
        print(f"{len(unreadable)} of {len(files)} files were left out:", file=sys.stderr)
        print(*unreadable, sep="\n", file=sys.stderr)
    return bool(unreadable)


def build_predictor(args: argparse.Namespace) -> Predictor | ExportedPredictor:
    from d2detr.errors import UserError
    from d2detr.export.predictor import ExportedPredictor
    from d2detr.predict.predictor import Predictor

    if args.model and (args.weights or args.opts):
        raise UserError(
            "--model has its weights and its config in it: leave out --weights and KEY VALUE."
        )
    if args.model:
        return ExportedPredictor(args.model, args.confidence_threshold)
    return Predictor(
        args.config_file,
        args.weights,
        score_threshold=args.confidence_threshold,
        opts=args.opts,
        batch_size=args.batch_size,
    )
