#!/usr/bin/env python
"""Write the weights of a DETR in the format of another implementation, tensor for tensor."""

import argparse
import sys

import d2detr  # noqa: F401 registers detr:// and repairs Detectron2
from d2detr.arguments import positive_number
from d2detr.checkpoint.convert import TARGETS, convert_checkpoint
from d2detr.engine import exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", "--input", required=True, help="whatever MODEL.WEIGHTS takes")
    parser.add_argument("--output", required=True, help="file; with --to huggingface a folder")
    parser.add_argument("--to", required=True, choices=TARGETS)
    parser.add_argument("--config-file", default="", help="of the model, which tells the next two")
    parser.add_argument("--num-heads", type=positive_number, help="for huggingface, if not 8")
    parser.add_argument(
        "--dc5",
        action=argparse.BooleanOptionalAction,
        help="for huggingface: whether the backbone is dilated, where the input does not tell",
    )
    parser.add_argument("--trusted", action="store_true", help="run code that the input may hold")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    convert_checkpoint(
        args.weights,
        args.output,
        args.to,
        num_heads=args.num_heads,
        dilation=args.dc5,
        config_file=args.config_file,
        trusted=args.trusted,
    )
    print(f"Written {args.output}.")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
