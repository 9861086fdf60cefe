#!/usr/bin/env python
"""Measure speed and memory, also beside another implementation of DETR in the same run."""

import argparse
import sys
from pathlib import Path

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.arguments import positive_number
from d2detr.engine import exit_on_user_error
from d2detr.errors import UserError
from d2detr.files import write_json
from d2detr.measure import AMP, TASKS, Workload, format_report, parse_size, run_benchmark
from d2detr.measure.timing import profile_step
from d2detr.measure.workload import DATASET_IMAGES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--config-file", default="configs/detr_r50.yaml")
    parser.add_argument("--compare", default="", help="a peer: huggingface, pycocotools")
    parser.add_argument("--batch", type=positive_number, default=1, help="images per step")
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--objects", type=positive_number, default=7, help="per image")
    parser.add_argument("--amp", choices=AMP, default="off")
    parser.add_argument("--compile", action="store_true", help="our model; the peer is as it is")
    parser.add_argument("--dataset", default="", help="take its first 100 images, not noise")
    parser.add_argument(
        "--threads", type=positive_number, default=0, help="of the CPU; default: torch's choice"
    )
    parser.add_argument(
        "--rounds",
        type=positive_number,
        help="timed steps of each; default: 10, or all 100 images of a --dataset in --task eval",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--profile", action="store_true", help="show where our time goes instead")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.compare and args.compare not in TASKS[args.task].peers:
        raise UserError(
            f"--compare {args.compare}: --task {args.task} can be compared with "
            f"{', '.join(TASKS[args.task].peers)}."
        )
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no such folder.")
    if args.json and Path(args.json).is_dir():
        raise UserError(f"--json {args.json} is a folder; name a file.")
    workload = Workload(
        config_file=args.config_file,
        opts=tuple(args.opts),
        batch=args.batch,
        size=parse_size(args.size),
        objects=args.objects,
        amp=args.amp,
        compile=args.compile,
        dataset=args.dataset,
        threads=args.threads,
    )
    if args.profile:
        print(profile_step(TASKS[args.task].ours(workload)))
        return
    rounds = args.rounds or (DATASET_IMAGES if args.task == "eval" and args.dataset else 10)
    report = run_benchmark(args.task, workload, compare=args.compare, rounds=rounds)
    print(format_report(report))
    if args.json:
        write_json(args.json, report, indent=2)


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
