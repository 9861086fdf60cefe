"""Arguments that several commands have, and types of arguments."""

import argparse
from collections.abc import Sequence
from typing import Any


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add Detectron2's arguments that say which processes are to be started."""
    parser.add_argument("--num-gpus", type=int, help="processes on this machine; default: 1")
    parser.add_argument("--num-machines", type=int, help="default: 1")
    parser.add_argument("--machine-rank", type=int, help="of this machine, from 0; default: 0")
    parser.add_argument("--dist-url", help="tcp://HOST:PORT of machine 0, with several machines")


def add_overrides(parser: argparse.ArgumentParser, *options: str) -> None:
    """Add ``KEY VALUE`` pairs at the end of the command line.

    Args:
        parser: gets the argument ``opts``, a list of texts.
        options: that may stand before the pairs, such as Detectron2's ``--opts``.
    """
    pairs: dict[str, Any] = {"nargs": argparse.REMAINDER, "action": "extend", "default": []}
    pairs["help"] = "KEY VALUE pairs of the config"
    if options:
        parser.add_argument(*options, dest="opts", **pairs)
    parser.add_argument("opts", **pairs)


class Override(argparse.Action):
    """Sets the config key that is its ``const``; pairs at the end of the line win."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **kwargs)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Note the key and its value."""
        namespace.opts = [*namespace.opts, self.const, values]


def positive_number(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def score(text: str) -> float:
    """Read a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not in [0, 1]")
    return value
