"""What Detectron2's checkpointer learns: to read every weight file into models that hold a DETR."""

from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from d2detr.checkpoint.adapting import find_detrs
from d2detr.checkpoint.fetching import fetch_weights, split_options
from d2detr.checkpoint.files import read_checkpoint
from d2detr.checkpoint.loading import adapt_checkpoint


def extend_detection_checkpointer() -> None:
    """Make DetectionCheckpointer load what :func:`d2detr.checkpoint.load_weights` loads.

    Only into models that hold a :class:`d2detr.modeling.DETR`; for others it stays as it is. Its
    attribute ``trusts_weights`` says whether files may run code that they hold.
    """
    stock = DetectionCheckpointer
    if hasattr(stock, "trusts_weights"):
        return
    load, load_file, load_model = stock.load, stock._load_file, stock._load_model

    def load_any(self: Any, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if path and find_detrs(self.model):
            self._source, self._options = f"Checkpoint {path}", split_options(path)[1]
            path = fetch_weights(path, key="Checkpoint")
        return load(self, path, *args, **kwargs)

    def load_any_file(self: Any, filename: str) -> dict[str, Any]:
        if not find_detrs(self.model):
            return load_file(self, filename)
        return {**read_checkpoint(filename, self.trusts_weights), **self._options}

    def load_adapted_model(self: Any, checkpoint: dict[str, Any]) -> Any:
        # fvcore drops tensors of other shapes than the model's, such as a class head, before rows
        # could be picked.
        if find_detrs(self.model):
            checkpoint["model"], _ = adapt_checkpoint(checkpoint, self.model, self._source)
            checkpoint["matching_heuristics"] = False  # done
        return load_model(self, checkpoint)

    stock.load, stock._load_file, stock._load_model = load_any, load_any_file, load_adapted_model
    stock.trusts_weights = False
