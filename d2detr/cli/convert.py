"""Write the weights of a DETR in the format of another implementation, tensor for tensor."""

import argparse

from d2detr.cli.arguments import positive_number

TARGETS = ("d2detr", "original", "huggingface")


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def main(args: argparse.Namespace) -> None:
    from d2detr.checkpoint.convert import convert_checkpoint

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
