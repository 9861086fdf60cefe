"""Print the completion of this command for a shell: eval "$(d2detr completion bash)"."""

import argparse

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def main(args: argparse.Namespace) -> None:
    from d2detr.cli.command import build_parser
    from d2detr.errors import UserError

    try:
        import shtab
    except ImportError:
        raise UserError(
            "Completion needs the package shtab: pip install 'd2detr[completion]'."
        ) from None
    parser = build_parser()
    commands = next(x for x in parser._actions if isinstance(x, argparse._SubParsersAction))
    for command in commands.choices.values():
        for argument in command._actions:
            if argument.nargs != 0 and argument.type is None and not argument.choices:
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, args.shell))
