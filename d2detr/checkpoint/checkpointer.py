"""What Detectron2's checkpointer learns: to read every weight file, into models that adapt them."""

from collections import OrderedDict
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from d2detr.checkpoint import metadata
from d2detr.checkpoint.adapting import LoadsDetrWeights
from d2detr.checkpoint.files import fetch_weights, read_checkpoint
from d2detr.checkpoint.formats import recognise_format


def extend_detection_checkpointer() -> None:
    """Make DetectionCheckpointer load what :mod:`d2detr.checkpoint` reads.

    Only for models that hold a :class:`LoadsDetrWeights`; for others it stays as it is.
    """
    stock = DetectionCheckpointer
    if getattr(stock, "reads_detr_weights", False):
        return
    load, load_file, load_model = stock.load, stock._load_file, stock._load_model

    def load_any(self: Any, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if _detr_modules(self.model):
            path = fetch_weights(path, key="Checkpoint")
        return load(self, path, *args, **kwargs)

    def load_any_file(self: Any, filename: str) -> dict[str, Any]:
        modules = _detr_modules(self.model)
        if not modules:
            return load_file(self, filename)
        return read_checkpoint(filename, any(x.trusts_weights for x in modules.values()))

    def load_adapted_model(self: Any, checkpoint: dict[str, Any]) -> Any:
        # fvcore drops tensors of other shapes than the model's, such as a class head, before the
        # model could pick rows; Detectron2 matches names by their ends, which fits anything.
        for prefix, module in _detr_modules(self.model).items():
            if prefix == "" and recognise_format(checkpoint["model"]):
                checkpoint["matching_heuristics"] = False
            if not checkpoint.get("matching_heuristics"):
                checkpoint["model"] = _adapt(checkpoint["model"], prefix, module)
        return load_model(self, checkpoint)

    stock.load, stock._load_file, stock._load_model = load_any, load_any_file, load_adapted_model
    stock.reads_detr_weights = True


def _detr_modules(model: nn.Module) -> dict[str, LoadsDetrWeights]:
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, LoadsDetrWeights)
    }


def _adapt(weights: dict, prefix: str, module: LoadsDetrWeights) -> OrderedDict:
    if all(key.startswith("module.") for key in weights):  # saved from DistributedDataParallel
        weights = OrderedDict((key.removeprefix("module."), x) for key, x in weights.items())
    facts = metadata.description(weights, prefix)
    adapted = OrderedDict(weights)
    adapted._metadata = getattr(weights, "_metadata", None)
    module.adapt_state_dict(adapted, prefix, facts.get(metadata.CLASS_NAMES))
    metadata.describe(adapted, prefix, **{metadata.ADAPTED: True})
    return adapted
