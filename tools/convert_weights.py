#!/usr/bin/env python
"""Write the weights of a DETR in the format of another implementation, tensor for tensor."""

import argparse

import d2detr  # noqa: F401 registers detr:// and repairs Detectron2
from d2detr.checkpoint.convert import TARGETS, convert_checkpoint
from d2detr.engine import exit_on_user_error


def main() -> None:
    """Parse the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", required=True, help="whatever MODEL.WEIGHTS takes")
    parser.add_argument("--output", required=True, help="file; with --to huggingface a folder")
    parser.add_argument("--to", required=True, choices=TARGETS)
    parser.add_argument("--config-file", default="", help="of the model, which tells the next two")
    parser.add_argument("--num-heads", type=int, help="for huggingface, if not 8")
    parser.add_argument(
        "--dc5",
        action=argparse.BooleanOptionalAction,
        help="for huggingface: whether the backbone is dilated, where the input does not tell",
    )
    parser.add_argument("--trusted", action="store_true", help="run code that the input may hold")
    args = parser.parse_args()
    with exit_on_user_error():
        convert_checkpoint(
            args.input,
            args.output,
            args.to,
            num_heads=args.num_heads,
            dilation=args.dc5,
            config_file=args.config_file,
            trusted=args.trusted,
        )
        print(f"Written {args.output}.")


if __name__ == "__main__":
    main()
