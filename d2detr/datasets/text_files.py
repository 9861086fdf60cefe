"""Reading text and JSON in UTF-8, and saying what a file is that holds something else."""

from __future__ import annotations

import json
import shlex
from typing import Any

from detectron2.utils.file_io import PathManager

from d2detr.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(path: str) -> str:
    """Read a file in UTF-8; a byte order mark is dropped.

    Args:
        path: a local path or another path known to Detectron2's PathManager.

    Raises:
        UserError: it is in UTF-16 or another encoding; says how to convert it.
        OSError: it cannot be opened.
    """
    with PathManager.open(path, "rb") as file:
        content = file.read()
    encoding = json.detect_encoding(content[:4])
    if not encoding.startswith("utf-8") and _is_text(content[:4], encoding):
        name = encoding.upper()
        raise UserError(
            f"{path} is in {name}, not in UTF-8. Convert it by: {_conversion(path, name)}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise UserError(f"{path} is truncated: it ends within a character.") from None
        raise UserError(
            f"{path} is not in UTF-8: byte {content[error.start]:#04x} at position {error.start} "
            "begins no character of it. If the file is in Latin-1 or Windows-1252, as older "
            f"programs write it, convert it by: {_conversion(path, 'CP1252')}"
        ) from None


def read_json(path: str) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: it is in another encoding, is not JSON or is truncated.
        OSError: it cannot be opened.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON, or truncated: {error}.") from None


def has_byte_order_mark(path: str) -> bool:
    """Whether a file begins with the mark that some programs put before UTF-8."""
    with PathManager.open(path, "rb") as file:
        return file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK


def _is_text(head: bytes, encoding: str) -> bool:
    return head.decode(encoding, "replace").lstrip("\ufeff\r\n\t").isprintable()


def _conversion(path: str, encoding: str) -> str:
    old, new = shlex.quote(path), shlex.quote(f"{path}.utf8")
    return f"iconv -f {encoding} -t UTF-8 {old} > {new} && mv {new} {old}"
