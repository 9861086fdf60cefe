#!/usr/bin/env python
"""The command `d2detr look`, from a checkout."""

from d2detr.cli.command import start, tool_parser
from d2detr.cli.look import main

__all__ = ["main", "parse_args"]

parse_args = tool_parser("look").parse_args

if __name__ == "__main__":
    start(parse_args())
