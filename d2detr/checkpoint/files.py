"""Reading weight files of every kind, without running code that a file may hold."""

import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2detr.checkpoint import metadata
from d2detr.checkpoint.bounds import check_tensor_size, check_unpacked_size
from d2detr.checkpoint.class_rows import known_names
from d2detr.checkpoint.fetching import fetch_weights
from d2detr.checkpoint.pickles import RefusedPickle, load_arrays
from d2detr.errors import UserError
from d2detr.files import read_json

# Under which name checkpoints keep the state dict beside optimizer and the like.
_CONTAINERS = ("model", "state_dict", "model_state")
_TRUST = (
    "If you trust where it comes from, let it run its code with MODEL.WEIGHTS_TRUSTED True on the "
    "command line, or trusted=True in Python (d2detr.checkpoint.load_weights)."
)
_OTHER_PROJECTS = {"ultralytics": "YOLO", "models": "YOLO", "mmengine": "MMDetection"}
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6


def read_checkpoint(path: str, trusted: bool = False) -> dict[str, Any]:
    """Read a checkpoint, whatever its file is called.

    Args:
        path: a file on this machine.
        trusted: run the code in pickles that hold more than tensors, arrays and plain values.

    Returns:
        ``model``, the state dict, with what the file or its folder tells about the network as
        metadata (see :mod:`d2detr.checkpoint.metadata`), and whatever else the file holds.

    Raises:
        UserError: the file is no checkpoint, is damaged, would fill the memory, or would run code
            and is not trusted.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if path.endswith(".index.json"):
        content = _read_shards(path, trusted)
    elif start.startswith(b"PK\x03\x04"):
        check_unpacked_size(path)
        content = _read_torch(path, trusted)
    elif start.startswith(_TORCH_LEGACY) or start[257:262] == b"ustar":
        content = _read_torch(path, trusted)
    elif start[:1] == b"\x80":
        content = _read_pickle(path, trusted)
    elif start[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        raise UserError(f"{path} holds no weights: {_guess_content(start)}.")
    checkpoint = _unpack(content, path)
    _describe(checkpoint, Path(path).parent / "config.json")
    return checkpoint


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
    index = read_json(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(_is_shard(name) for name in names.values()):
        raise UserError(
            f"{path} is no index of weights: its 'weight_map' must say for each tensor which file "
            "beside it holds it. Download it again, or name a file of weights."
        )
    weights: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        shard = Path(path).parent / Path(name).name
        weights.update(read_checkpoint(fetch_weights(str(shard), path), trusted)["model"])
    return weights


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and not name.endswith(".index.json")


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
    numbers = {k: x for k, x in weights.items() if isinstance(x, Tensor | np.ndarray)}
    if not path.endswith(".index.json"):
        check_tensor_size(path, numbers)
    model = OrderedDict((key, torch.as_tensor(value)) for key, value in numbers.items())
    if not model:
        raise UserError(f"{path} holds no tensors, but {', '.join(map(str, list(content)[:8]))}.")
    if hasattr(weights, "_metadata"):
        model._metadata = weights._metadata
    return {**(rest if container else {}), "model": model}


def _describe(checkpoint: dict[str, Any], config_file: Path) -> None:
    """Note what the original's arguments in the file, or transformers' config beside it, tell."""
    args: Any = checkpoint.get("args")
    facts: dict[str, Any] = {}
    if hasattr(args, "dilation"):
        facts[metadata.RES5_DILATION] = 2 if args.dilation else 1
    if hasattr(args, "nheads"):
        facts[metadata.NUM_HEADS] = args.nheads
    try:
        config = json.loads(config_file.read_text()) if config_file.is_file() else {}
        if config.get("model_type", "detr") == "detr":
            facts |= _facts_of_transformers(config)
    except (ValueError, KeyError, AttributeError, TypeError):
        pass  # it belongs to something else
    metadata.describe(checkpoint["model"], **facts)


def _facts_of_transformers(config: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if "dilation" in config:
        facts[metadata.RES5_DILATION] = 2 if config["dilation"] else 1
    if "encoder_attention_heads" in config:
        facts[metadata.NUM_HEADS] = config["encoder_attention_heads"]
    labels = config.get("id2label") or {}
    names = [labels[str(i)] for i in range(len(labels))]
    if known_names(names):
        facts[metadata.CLASS_NAMES] = names
    return facts
