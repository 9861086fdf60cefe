"""Where a model looks in one image, computed once more from what its attention was given."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import ScaledDotProduct, box_cxcywh_to_xyxy
from d2detr.modeling import DETR, Encoded, Memory

_Inputs = Mapping[nn.Module, Mapping[str, Any]]


@dataclass(frozen=True)
class Predictions:
    """What L decoder layers predict of Q queries in an image.

    Attributes:
        size: height and width of the image in pixels.
        num_classes: that the model knows.
        boxes: (L, Q, 4) left, top, right and bottom that every layer predicts, in pixels of the
            image.
        scores: (L, Q) of what every layer predicts.
        classes: (L, Q) int64; the number of classes stands for no object.
        references: (L, Q, 2 or 4) points, or boxes as corners, that the layers' boxes start from,
            in pixels of the image; None for a decoder without.
    """

    size: tuple[int, int]
    num_classes: int
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    references: np.ndarray | None

    def detections(self, score_threshold: float) -> list[int]:
        """Queries whose last box holds an object with at least that score, the best first."""
        scores, classes = self.scores[-1], self.classes[-1]
        found = (scores >= score_threshold) & (classes < self.num_classes)
        return [int(query) for query in np.argsort(-scores) if found[query]]


@dataclass(frozen=True)
class Attention(Predictions):
    """Where a model of E encoder layers, L decoder layers and Q queries looks in an image.

    The image is h x w cells; those of padding, which nothing attends to, are left out. All arrays
    are float32, and weights are those of every head.

    Attributes:
        encoder: (E, heads, h, w, h, w) weights of the last two axes' cells for the cell before
            them; they sum to 1.
        decoder: (L, heads, Q, h, w) weights of the cells for each query; they sum to 1.
        masks: (Q, heads, h, w) the mask head's maps; they sum to 1 over heads and cells. None
            without a mask head.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    masks: np.ndarray | None


@torch.no_grad()
def attention(model: nn.Module, image: Tensor) -> Attention:
    """Run a model on an image, and tell where it looked.

    The encoder's weights take 4 E heads (h w)^2 bytes: 140 MB for DETR and 850 cells.

    Args:
        model: in any mode, which it keeps.
        image: (3, H, W) in [0, 255], resized and with channels ordered as the model takes it.

    Raises:
        UserError: the model is no DETR, or has no attention with a weight for every cell.
    """
    model = _require_detr(model)
    transformer = model.transformer
    encoder = [_only_attention(layer) for layer in transformer.encoder.layers]
    decoder = [_only_attention(layer, besides="self_attn.") for layer in transformer.decoder.layers]
    with _inference(model), _inputs_of([*encoder, *decoder]) as inputs:
        encoded = model.encode(model.preprocess_image([{"image": image}]))
    (grid,), (h, w) = encoded.memory.shapes, _unpadded_grid(encoded.memory)
    num_heads = transformer.decoder.num_heads
    # Joined in place, since they are too large for a second copy.
    encoder_weights = np.empty((len(encoder), num_heads, h, w, h, w), np.float32)
    for layer_weights, module in zip(encoder_weights, encoder, strict=True):
        weights = _weights(module, inputs, grid).unflatten(1, grid)
        layer_weights[:] = weights[:, :h, :w, :h, :w].cpu()
    decoder_weights = [_weights(module, inputs, grid)[..., :h, :w] for module in decoder]
    masks = _mask_maps(model, encoded)
    return Attention(
        encoder=encoder_weights,
        decoder=torch.stack(decoder_weights).cpu().numpy(),
        masks=None if masks is None else masks[..., :h, :w].cpu().numpy(),
        **_predictions(model, encoded, image),
    )


@torch.no_grad()
def layer_predictions(model: nn.Module, image: Tensor) -> Predictions:
    """Run a model on an image, and tell what its layers predict.

    Takes and raises what :func:`attention` does, but for the latter's last reason.
    """
    model = _require_detr(model)
    with _inference(model):
        encoded = model.encode(model.preprocess_image([{"image": image}]))
    return Predictions(**_predictions(model, encoded, image))


def _require_detr(model: nn.Module) -> DETR:
    if not isinstance(model, DETR):
        raise UserError(
            f"The model is a {type(model).__name__}, which does not attend to the image: only "
            "models of MODEL.META_ARCHITECTURE 'DETR' can be explained."
        )
    return model


def _only_attention(layer: nn.Module, besides: str = "none") -> ScaledDotProduct:
    """The attention of a layer to the image, with other names than those that begin so."""
    found = [
        module
        for name, module in layer.named_modules()
        if isinstance(module, ScaledDotProduct) and not name.startswith(besides)
    ]
    if len(found) != 1:
        raise UserError(
            f"A {type(layer).__name__} has {len(found)} attentions to the image that weigh every "
            "cell, but must have one to be explained."
        )
    return found[0]


def _unpadded_grid(memory: Memory) -> tuple[int, int]:
    """Rows and columns of the only image that are not padding, which is on the right and below."""
    if memory.mask is None:
        return memory.shapes[0]
    inside = memory.mask[0].unflatten(0, memory.shapes[0])
    return int(inside.any(1).sum()), int(inside.any(0).sum())


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Modules in inference, without compilation, whose code would leave hooks out."""
    training = [module for module in model.modules() if module.training]
    # A call of torch for all modules would forget which ones were in training.
    for module in training:
        module.training = False
    compiles = any(module._compiled_call_impl is not None for module in model.modules())
    try:
        with torch.compiler.set_stance("force_eager") if compiles else nullcontext():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _inputs_of(modules: list[ScaledDotProduct]) -> Iterator[_Inputs]:
    """What each attention is given in the meantime, but for values."""
    inputs = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        inputs[module] = {name: value for name, value in arguments.items() if name != "v"}

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _weights(module: ScaledDotProduct, inputs: _Inputs, grid: tuple[int, int]) -> Tensor:
    """(heads, N, *grid) of the only image."""
    return module.weights(**inputs[module])[0].unflatten(-1, grid)


def _predictions(model: DETR, encoded: Encoded, image: Tensor) -> dict[str, Any]:
    decoded = encoded.decoded
    outputs = model.predict(decoded, all_layers=True)
    scores, classes = model.classification.score(outputs["pred_logits"][:, 0])
    height, width = image.shape[-2:]
    scale = outputs["pred_boxes"].new_tensor([width, height])
    references = decoded.reference
    if references is not None:
        references = references[:, 0].float()
        if references.shape[-1] == 4:
            references = box_cxcywh_to_xyxy(references)
        references = references.unflatten(-1, (-1, 2)).mul(scale).flatten(-2).cpu().numpy()
    boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"][:, 0]) * scale.repeat(2)
    return {
        "size": (height, width),
        "num_classes": model.num_classes,
        "boxes": boxes.cpu().numpy(),
        "scores": scores.float().cpu().numpy(),
        "classes": classes.cpu().numpy(),
        "references": references,
    }


def _mask_maps(model: DETR, encoded: Encoded) -> Tensor | None:
    if model.mask_head is None:
        return None
    memory = encoded.memory
    maps = model.mask_head.attention(encoded.decoded.hs[-1], memory.tokens, memory.mask)
    return maps[0].float().unflatten(-1, memory.shapes[0])
