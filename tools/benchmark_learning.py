#!/usr/bin/env python
"""Train several models side by side for the same CPU seconds: AP over time, and time to an AP."""

import argparse
import json
import logging

import torch

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.engine import exit_on_user_error
from d2detr.files import make_folder
from d2detr.measure.learning import Contender, plan_trainings, take_turns
from d2detr.measure.learning_report import build_report, draw_learning, format_learning


def main() -> None:
    """Parse the command line, train in turn and report after each slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--contender",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME CONFIG", "KEY VALUE"),
        help="a model; once for each",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=900, help="of CPU, of each training")
    parser.add_argument("--slice", type=float, default=45, help="CPU seconds between evaluations")
    parser.add_argument("--targets", type=float, nargs="+", default=[50, 70], help="APs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="output/benchmark_learning")
    parser.add_argument("--resume", action="store_true", help="go on with what --output holds")
    parser.add_argument("--overwrite", action="store_true", help="replace what --output holds")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE pairs for all contenders")
    args = parser.parse_args()
    if any(len(contender) % 2 for contender in args.contender):
        parser.error("each --contender takes NAME CONFIG and then pairs of KEY VALUE")
    torch.set_num_threads(args.threads)
    contenders = [Contender(name, file, tuple(opts)) for name, file, *opts in args.contender]
    with exit_on_user_error():
        planned = plan_trainings(contenders, args.seeds, args.output, args.opts)
        output = make_folder(args.output)
        logging.basicConfig(filename=output / "log.txt", level=logging.INFO)
        turns = take_turns(
            planned,
            seconds=args.seconds,
            slice_seconds=args.slice,
            resume=args.resume,
            overwrite=args.overwrite,
        )
        for curves in turns:
            report = build_report(planned, curves, seconds=args.seconds, targets=args.targets)
            (output / "learning.json").write_text(json.dumps(report, indent=2) + "\n")
            draw_learning(report, output / "learning.png")
            text = format_learning(report)
            (output / "learning.txt").write_text(text + "\n")
            print(text, flush=True)


if __name__ == "__main__":
    main()
