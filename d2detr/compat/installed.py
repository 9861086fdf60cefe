from __future__ import annotations

import sys
from pathlib import Path


def mentions(file: str, text: str) -> bool:
    """Whether a source file of the installed Detectron2 has this text: what versions differ in."""
    path = Path(sys.modules["detectron2"].__file__).parent / file
    return path.exists() and text in path.read_text(encoding="utf-8")
