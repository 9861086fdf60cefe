#!/usr/bin/env python
"""Compare how OpenMP's threads may wait, on a CPU: alone, and beside processes that keep it busy.

Reads d2detr's own choice, those of OpenMP, and one thread. Keep the machine quiet otherwise.
"""

import argparse
import sys

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.cli.arguments import positive_number
from d2detr.engine import exit_on_user_error
from d2detr.measure import TASKS, parse_size
from d2detr.measure.waiting import compare_waiting, format_comparison


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/learning/detr.yaml")
    parser.add_argument("--task", choices=TASKS, default="train")
    parser.add_argument("--batch", type=positive_number, default=16, help="images per step")
    parser.add_argument("--size", default="96x96", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument("--spin-counts", type=int, nargs="+", metavar="N", default=[])
    parser.add_argument("--rounds", type=positive_number, default=15, help="timed steps of each")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    workload = {
        "config_file": args.config_file,
        "opts": ("MODEL.DEVICE", "cpu", *args.opts),
        "batch": args.batch,
        "size": parse_size(args.size),
    }
    ways = {"d2detr's choice": {}}
    ways |= {f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in args.spin_counts}
    ways |= {
        "spinning, as OpenMP has it": {"GOMP_SPINCOUNT": "300000"},
        "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
        "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
    }
    timings = {
        where: compare_waiting(args.task, workload, ways, rounds=args.rounds, neighbours=number)
        for where, number in (("alone", 0), ("beside a busy core", 1))
    }
    print(format_comparison(timings))


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
