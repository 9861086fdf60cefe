"""From the value of a config key to a weight file on this machine."""

import os
from pathlib import Path

from detectron2.utils.file_io import PathManager

from d2detr.errors import UserError

# Where a folder that transformers or detrex wrote has its weights, best first.
_FILES_OF_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model_final.pth",
)
_OPTIONS = ("matching_heuristics", "partial")


def split_options(path: str) -> tuple[str, dict[str, bool]]:
    """Separate a path or URL from what is said behind it, such as ``?partial=True``.

    Returns:
        The path, of which a URL keeps the rest of its query, and the options that are on or off:
        ``matching_heuristics`` (match names by their ends, as Detectron2 does with this option)
        and ``partial`` (see :func:`d2detr.checkpoint.load_weights`).

    Raises:
        UserError: an option is neither True nor False.
    """
    base, _, query = path.rpartition("?")
    options, rest = {}, []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if not base or name not in _OPTIONS:
            rest.append(part)
        elif value in ("True", "False"):
            options[name] = value == "True"
        else:
            raise UserError(f"{name} is {value!r} in {path}; it must be True or False.")
    if not options:
        return path, {}
    return "?".join([base, *(["&".join(rest)] if rest else [])]), options


def fetch_weights(path: str, key: str = "MODEL.WEIGHTS") -> str:
    """Make sure that weights are on this machine, downloading them if ``path`` is a URL.

    Args:
        path: a file, a folder that transformers wrote, a URL, ``detectron2://...``,
            ``detr://...``, or "" for none; options behind it do not matter here.
        key: what ``path`` is the value of, for the messages.

    Returns:
        The file on this machine, or "".

    Raises:
        UserError: there is no such file, it cannot be downloaded, or it is empty.
    """
    path, _ = split_options(path)
    if not path:
        return ""
    try:
        local_path = PathManager.get_local_path(path)
    except UserError:
        raise
    except Exception as error:  # a handler may raise whatever its library does
        raise UserError(
            f"{key} {path} cannot be downloaded: {error}. {key} also takes the path of a file, or "
            '"" for none.'
        ) from None
    if os.path.isdir(local_path):
        local_path = _file_of_folder(local_path)
    if not os.path.isfile(local_path):
        raise UserError(f"{key} {path} does not exist{_nearest_parent(local_path)}.")
    if os.path.getsize(local_path) == 0:
        raise UserError(f"{key} {path} is an empty file: its copy or download failed.")
    return local_path


def _file_of_folder(folder: str) -> str:
    for name in _FILES_OF_FOLDERS:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    found = sorted(os.listdir(folder))[:8]
    raise UserError(
        f"The folder {folder} holds no weights: looked for {', '.join(_FILES_OF_FOLDERS)}; it has "
        f"{', '.join(found) or 'nothing'}. Name a file."
    )


def _nearest_parent(path: str) -> str:
    parent = next(x for x in Path(path).absolute().parents if x.is_dir())
    files = sorted(x.name for x in parent.iterdir() if not x.name.startswith("."))
    more = ", ..." if len(files) > 8 else ""
    return f"; the folder {parent} does, with {', '.join(files[:8]) or 'nothing'}{more} in it"
