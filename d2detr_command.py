"""The command ``d2detr``, which answers ``--help`` before the package is imported.

Importing ``d2detr`` imports torch and Detectron2, which takes seconds. The parsers need neither,
but lie in the package. Therefore it is put into its place first, and executed once the command line
is known to be right.
"""

import sys
from importlib.util import find_spec, module_from_spec


def main() -> None:
    """Run what the command line asks for."""
    spec = find_spec("d2detr")
    assert spec is not None and spec.loader is not None
    package = sys.modules["d2detr"] = module_from_spec(spec)
    from d2detr.cli.command import build_parser, start

    args = build_parser().parse_args()
    try:
        spec.loader.exec_module(package)
    except ImportError as error:
        if error.name != "detectron2":
            raise
        sys.exit(f"error: {error}")
    start(args)
