"""Files and folders that a run leaves."""

from pathlib import Path

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
