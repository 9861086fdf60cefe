"""Files and folders that a run leaves."""

import json
from pathlib import Path
from typing import Any

from d2detr.errors import UserError


def make_folder(folder: str | Path) -> Path:
    """Make an output folder if it does not exist, and return its path.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The output folder {folder} cannot be made: {error}.") from error
    return folder


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON; says where it is not.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON, or was cut off: {error.msg} at line {error.lineno}, column "
            f"{error.colno}."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON: it is no UTF-8 text ({error.reason}).") from error
