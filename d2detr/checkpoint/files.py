"""Reading weight files of every kind, without running code that a file may hold."""

import json
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from d2detr.checkpoint.class_rows import known_names
from d2detr.checkpoint.metadata import describe
from d2detr.checkpoint.pickles import RefusedPickle, load_arrays
from d2detr.errors import UserError

# Where a folder that transformers or detrex wrote has its weights, best first.
_FILES_OF_FOLDERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model_final.pth",
)
# Under which name checkpoints keep the state dict beside optimizer and the like.
_CONTAINERS = ("model", "state_dict", "model_state")
_TRUST = "If you trust where it comes from, set MODEL.WEIGHTS_TRUSTED to True to run its code."
_OTHER_PROJECTS = {"ultralytics": "YOLO", "models": "YOLO", "mmengine": "MMDetection"}
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6


def fetch_weights(path: str, key: str = "MODEL.WEIGHTS") -> str:
    """Make sure that weights are on this machine, downloading them if ``path`` is a URL.

    Args:
        path: a file, a folder that transformers wrote, a URL, ``detectron2://...``,
            ``detr://...``, or "" for none.
        key: what ``path`` is the value of, for the messages.

    Returns:
        The file on this machine, or "".

    Raises:
        UserError: there is no such file, it cannot be downloaded, or it is empty.
    """
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


def read_checkpoint(path: str, trusted: bool = False) -> dict[str, Any]:
    """Read a checkpoint, whatever its file is called.

    Args:
        path: a file on this machine.
        trusted: run the code in pickles that hold more than tensors, arrays and plain values.

    Returns:
        ``model``, the state dict, with class names as metadata where the file or its folder tells
        them, and whatever else the file holds.

    Raises:
        UserError: the file is no checkpoint, is damaged, or would run code and is not trusted.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if path.endswith(".index.json"):
        content = _read_shards(path, trusted)
    elif start.startswith((b"PK\x03\x04", _TORCH_LEGACY)) or start[257:262] == b"ustar":
        content = _read_torch(path, trusted)
    elif start[:1] == b"\x80":
        content = _read_pickle(path, trusted)
    elif start[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        raise UserError(f"{path} holds no weights: {_guess_content(start)}.")
    checkpoint = _unpack(content, path)
    _describe_classes(checkpoint["model"], Path(path).parent / "config.json")
    return checkpoint


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


def _read_torch(path: str, trusted: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=not trusted)
    except RuntimeError as error:
        raise UserError(
            f"{path} is damaged, or was not copied completely: {str(error).splitlines()[0]}"
        ) from None
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(_refusal(path, refused[1] if refused else None, error)) from None


def _read_pickle(path: str, trusted: bool) -> Any:
    try:
        with open(path, "rb") as file:
            content = pickle.load(file, encoding="latin1") if trusted else load_arrays(file)
    except RefusedPickle as error:
        raise UserError(_refusal(path, error.needs, error)) from None
    except Exception as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if isinstance(content, Mapping) and "model" not in content:  # of Caffe2 and Detectron 1
        arrays = content.get("blobs", content)
        arrays = {key: x for key, x in arrays.items() if not key.endswith("_momentum")}
        return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}
    return content


def _refusal(path: str, needs: str | None, error: Exception) -> str:
    project = _OTHER_PROJECTS.get((needs or "").partition(".")[0])
    if project:
        return f"{path} is a checkpoint of {project} (it needs {needs}), not of DETR."
    reason = f"it needs {needs}" if needs else str(error).splitlines()[0]
    return (
        f"{path} was not read, because reading it could run code that it holds: {reason}. Files "
        f"of tensors, safetensors and arrays are read. {_TRUST}"
    )


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged, or was not copied completely: {error}") from None


def _read_shards(path: str, trusted: bool) -> dict[str, Tensor]:
    index = json.loads(Path(path).read_text())
    weights: dict[str, Tensor] = {}
    for name in sorted(set(index["weight_map"].values())):
        shard = Path(path).parent / Path(name).name
        weights.update(read_checkpoint(fetch_weights(str(shard)), trusted)["model"])
    return weights


def _guess_content(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, saved under this name. Download the file itself"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer. Fetch the file that it stands for with 'git lfs pull'"
    return f"it is of no known kind, and starts with {start[:16]!r}"


def _unpack(content: Any, path: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a state dict. Save model.state_dict()."
        )
    container = next((x for x in _CONTAINERS if isinstance(content.get(x), Mapping)), None)
    rest = {key: value for key, value in content.items() if key != container}
    weights = content[container] if container else content
    model = OrderedDict(
        (key, torch.as_tensor(value))
        for key, value in weights.items()
        if isinstance(value, Tensor | np.ndarray)
    )
    if not model:
        raise UserError(f"{path} holds no tensors, but {', '.join(map(str, list(content)[:8]))}.")
    if hasattr(weights, "_metadata"):
        model._metadata = weights._metadata
    return {**(rest if container else {}), "model": model}


def _describe_classes(model: OrderedDict, config_file: Path) -> None:
    """Take class names from the ``config.json`` that transformers writes beside its weights."""
    if not config_file.is_file():
        return
    try:
        labels = json.loads(config_file.read_text()).get("id2label") or {}
        names = [labels[str(i)] for i in range(len(labels))]
    except (ValueError, KeyError, AttributeError, TypeError):
        return
    if known_names(names):
        describe(model, class_names=names)
