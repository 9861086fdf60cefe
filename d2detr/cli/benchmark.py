"""Measure speed and memory, also beside another implementation of DETR in the same run."""

import argparse
from pathlib import Path

from d2detr.cli.arguments import add_overrides, positive_number

TASKS = (
    *("train", "eval", "criterion", "postprocess", "backbone"),
    *("deformable_attention", "deformable_self_attention", "data", "evaluate"),
)
AMP = ("off", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument("--config-file", default="detr_r50.yaml")
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
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    from d2detr import measure
    from d2detr.errors import UserError
    from d2detr.files import write_json
    from d2detr.measure.timing import profile_step
    from d2detr.measure.workload import DATASET_IMAGES

    if args.compare and args.compare not in measure.TASKS[args.task].peers:
        raise UserError(
            f"--compare {args.compare}: --task {args.task} can be compared with "
            f"{', '.join(measure.TASKS[args.task].peers)}."
        )
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise UserError(f"--json {args.json}: there is no such folder.")
    if args.json and Path(args.json).is_dir():
        raise UserError(f"--json {args.json} is a folder; name a file.")
    workload = measure.Workload(
        config_file=args.config_file,
        opts=tuple(args.opts),
        batch=args.batch,
        size=measure.parse_size(args.size),
        objects=args.objects,
        amp=args.amp,
        compile=args.compile,
        dataset=args.dataset,
        threads=args.threads,
    )
    if args.profile:
        print(profile_step(measure.TASKS[args.task].ours(workload)))
        return
    rounds = args.rounds or (DATASET_IMAGES if args.task == "eval" and args.dataset else 10)
    report = measure.run_benchmark(args.task, workload, compare=args.compare, rounds=rounds)
    print(measure.format_report(report))
    if args.json:
        write_json(args.json, report, indent=2)
