"""The command line as a whole, and the start of what it names."""

import argparse
import sys
from importlib import import_module, metadata
from types import ModuleType

COMMANDS = (
    "train",
    "finetune",
    "predict",
    "evaluate",
    "export",
    "check",
    "look",
    "results",
    "plot",
    "report",
    "explain",
    "convert",
    "analyze",
    "benchmark",
    "completion",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of ``d2detr COMMAND ...``."""
    parser = argparse.ArgumentParser(
        prog="d2detr",
        description="DETR inside Detectron2.",
        epilog="d2detr COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"d2detr {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = _module(name)
        first_line = str(module.__doc__).splitlines()[0]
        _add_command(commands.add_parser(name, help=first_line), name, module)
    return parser


def tool_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of one command, for a script of its own."""
    return _add_command(argparse.ArgumentParser(), name, _module(name))


def start(args: argparse.Namespace) -> None:
    """Run the ``main`` of a command, and end the program.

    One with launch arguments runs in as many processes as they say. The status is 0, or 1 for what
    the user has to mend or to know, 2 for a wrong command line, and 128 and the number of a signal.
    """
    from d2detr.engine import exit_on_user_error, run

    main = _module(args.command).main
    if hasattr(args, "num_gpus"):
        run(main, args)
        return
    with exit_on_user_error():
        sys.exit(main(args))


def _add_command(
    parser: argparse.ArgumentParser, name: str, module: ModuleType
) -> argparse.ArgumentParser:
    parser.description = module.__doc__
    module.add_arguments(parser)
    parser.set_defaults(command=name)
    return parser


def _module(name: str) -> ModuleType:
    return import_module(f"d2detr.cli.{name}")


def _version() -> str:
    try:
        return metadata.version("d2detr")
    except metadata.PackageNotFoundError:  # a checkout on Python's path
        return "of a checkout"
