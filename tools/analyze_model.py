#!/usr/bin/env python
"""The command `d2detr analyze`, from a checkout."""

from d2detr.cli.analyze import main
from d2detr.cli.command import start, tool_parser

__all__ = ["main", "parse_args"]

parse_args = tool_parser("analyze").parse_args

if __name__ == "__main__":
    start(parse_args())
