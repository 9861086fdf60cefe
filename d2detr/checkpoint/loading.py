"""The one way in which weights get into a model."""

import logging
from collections import OrderedDict
from typing import Any

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from d2detr.checkpoint.adapting import adapt_weights, find_detrs
from d2detr.checkpoint.fetching import fetch_weights, split_options
from d2detr.checkpoint.files import read_checkpoint
from d2detr.checkpoint.formats import recognise_format
from d2detr.checkpoint.load_report import LoadReport
from d2detr.errors import UserError

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str,
    *,
    trusted: bool = False,
    partial: bool = False,
    key: str = "MODEL.WEIGHTS",
) -> LoadReport:
    """Load weights of any known format into a model; they are fetched and read once.

    Args:
        model: what is or holds a :class:`d2detr.modeling.DETR`, or another model, whose names the
            weights must have.
        path: a file, a folder that transformers wrote, a URL, ``detectron2://...``,
            ``detr://...``, or "" for none. ``?matching_heuristics=True`` behind it matches names
            by their ends, and ``?partial=True`` is ``partial``.
        trusted: run the code in pickles that hold more than tensors, arrays and plain values.
        partial: load weights of a DETR that leave the whole backbone or transformer random.
        key: what ``path`` is the value of, for messages.

    Returns:
        What became of the model's tensors and of the weights.

    Raises:
        UserError: the weights cannot be had or read, have nothing for the model, leave its backbone
            or transformer random, or are not finite.
    """
    model = getattr(model, "module", model)  # of DistributedDataParallel
    if not path:
        logger.info("There are no weights to load: the model starts from random values.")
        report = LoadReport("none", total=len(model.state_dict()))
        report.kept["there are no weights"] = list(model.state_dict())
        return report
    _, options = split_options(path)
    checkpoint = {**read_checkpoint(fetch_weights(path, key), trusted), **options}
    if partial:
        checkpoint["partial"] = True
    weights, report = adapt_checkpoint(checkpoint, model, source=f"{key} {path}")
    model.load_state_dict(weights, strict=False)
    return report


def adapt_checkpoint(
    checkpoint: dict[str, Any], model: nn.Module, source: str
) -> tuple[OrderedDict[str, Tensor], LoadReport]:
    """Give the weights of a checkpoint the names and shapes of a model.

    Args:
        checkpoint: of :func:`read_checkpoint`, with the options of :func:`split_options`.
        model: see :func:`adapt_weights`.
        source: of the checkpoint, for messages.

    Returns:
        See :func:`adapt_weights`.

    Raises:
        UserError: see :func:`adapt_weights`; or several tensors match one by their ends.
    """
    weights = _without_prefix(checkpoint["model"])
    # Names of a known format are mapped exactly; by their ends anything can match.
    is_known = "" in find_detrs(model) and recognise_format(weights) is not None
    if checkpoint.get("matching_heuristics") and not is_known:
        try:
            weights = align_and_update_state_dicts(
                model.state_dict(), weights, checkpoint.get("__author__") == "Caffe2"
            )
        except ValueError as error:
            raise UserError(f"{source} cannot be matched by the ends of names: {error}") from None
    return adapt_weights(
        weights, model, partial=checkpoint.get("partial", False), source=f"{source}: the weights"
    )


def _without_prefix(weights: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Drop ``module.``, with which DistributedDataParallel saves."""
    if not all(key.startswith("module.") for key in weights):
        return weights
    stripped = OrderedDict((key.removeprefix("module."), x) for key, x in weights.items())
    stripped._metadata = OrderedDict(
        (key.removeprefix("module").removeprefix("."), facts)
        for key, facts in getattr(weights, "_metadata", {}).items()
        if key
    )
    return stripped
