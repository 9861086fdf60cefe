#!/usr/bin/env python
"""Train several models side by side for the same CPU seconds: AP over time, and time to an AP."""

import argparse
import logging
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.cli.arguments import positive_number
from d2detr.engine import exit_on_user_error
from d2detr.errors import UserError
from d2detr.files import make_folder, replacing, write_json, write_text
from d2detr.measure.learning import Contender, plan_trainings, take_turns
from d2detr.measure.learning_report import build_report, draw_learning, format_learning


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--contender",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME CONFIG", "KEY VALUE"),
        help="a model; once for each",
    )
    parser.add_argument("--seeds", type=positive_number, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--seconds", type=positive_number, default=900, help="of CPU, of each training"
    )
    parser.add_argument(
        "--slice", type=positive_number, default=45, help="CPU seconds between evaluations"
    )
    parser.add_argument("--targets", type=positive_number, nargs="+", default=[50, 70], help="APs")
    parser.add_argument("--threads", type=positive_number, default=1)
    parser.add_argument("--output", default="output/benchmark_learning")
    parser.add_argument("--resume", action="store_true", help="go on with what --output holds")
    parser.add_argument("--overwrite", action="store_true", help="replace what --output holds")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE pairs for all contenders")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if any(len(contender) % 2 for contender in args.contender):
        raise UserError("--contender takes NAME CONFIG, and then pairs of KEY VALUE.")
    contenders = [Contender(name, file, tuple(opts)) for name, file, *opts in args.contender]
    planned = plan_trainings(contenders, args.seeds, args.output, args.opts)
    output = make_folder(args.output)
    logging.basicConfig(filename=output / "log.txt", level=logging.INFO)
    turns = take_turns(
        planned,
        seconds=args.seconds,
        slice_seconds=args.slice,
        threads=args.threads,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    for curves in turns:
        report = build_report(planned, curves, seconds=args.seconds, targets=args.targets)
        text = format_learning(report)
        write_json(output / "learning.json", report, indent=2)
        write_text(output / "learning.txt", text + "\n")
        with replacing(output / "learning.png") as picture:
            draw_learning(report, picture)
        print(text, flush=True)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
