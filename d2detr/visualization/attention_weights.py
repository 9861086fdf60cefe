"""Where a model looks in one image, computed once more from what its attention was given."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import ScaledDotProduct, box_cxcywh_to_xyxy
from d2detr.modeling import DETR, Encoded


@dataclass
class Attention:
    """Where a model of E encoder layers, L decoder layers and Q queries looks in an image.

    The image is h x w cells, of which the right and lower ones may be padding. All arrays are
    float32 but ``classes``. Weights are those of every head, and 0 at padded cells.

    Attributes:
        encoder: (E, heads, h, w, h, w) weights of the last two axes' cells for the cell before
            them; they sum to 1.
        decoder: (L, heads, Q, h, w) weights of the cells for each query; they sum to 1.
        boxes: (L, Q, 4) left, top, right and bottom that every layer predicts, in pixels of the
            image.
        scores: (L, Q) of what every layer predicts.
        classes: (L, Q) int64; the number of classes stands for no object.
        references: (L, Q, 2 or 4) points, or boxes as corners, that the layers' boxes start from,
            in pixels of the image; None for a decoder without.
        masks: (Q, heads, h, w) the mask head's maps; they sum to 1 over heads and cells. None
            without a mask head.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    references: np.ndarray | None
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
    if not isinstance(model, DETR):
        raise UserError(
            f"The model is a {type(model).__name__}, which does not attend to the image: only "
            "models of MODEL.META_ARCHITECTURE 'DETR' can be explained."
        )
    transformer = model.transformer
    encoder = [layer.self_attn.attend for layer in transformer.encoder.layers]
    decoder = [_attention_to_memory(layer) for layer in transformer.decoder.layers]
    with _inference(model), _inputs_of([*encoder, *decoder]) as inputs:
        encoded = model.encode(model.preprocess_image([{"image": image}]))
    rows, columns = encoded.memory.shapes[0]
    num_heads = transformer.decoder.num_heads
    # Joined in place, since the encoder's are too large for a second copy.
    cells = rows * columns
    encoder_weights = np.empty((len(encoder), num_heads, cells, cells), np.float32)
    for layer_weights, module in zip(encoder_weights, encoder, strict=True):
        layer_weights[:] = _weights(module, inputs)
    decoder_weights = np.stack([_weights(module, inputs) for module in decoder])
    grid = (rows, columns)
    return Attention(
        encoder=encoder_weights.reshape(len(encoder), num_heads, *grid, *grid),
        decoder=decoder_weights.reshape(*decoder_weights.shape[:-1], *grid),
        masks=_mask_maps(model, encoded),
        **_predictions(model, encoded, image),
    )


def _attention_to_memory(layer: nn.Module) -> ScaledDotProduct:
    found = [
        module
        for name, module in layer.named_modules()
        if isinstance(module, ScaledDotProduct) and not name.startswith("self_attn.")
    ]
    if len(found) != 1:
        raise UserError(
            f"The decoder's {type(layer).__name__} has {len(found)} attentions to the image that "
            "weigh every cell, but must have one to be explained."
        )
    return found[0]


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
def _inputs_of(
    modules: list[ScaledDotProduct],
) -> Iterator[Mapping[nn.Module, tuple[Tensor | None, ...]]]:
    """What each attention is given in the meantime: q, k, mask and query_mask."""
    inputs = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        q, k, _, mask, query_mask = (*args, *(None,) * (5 - len(args)))
        inputs[module] = q, k, kwargs.get("mask", mask), kwargs.get("query_mask", query_mask)

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _weights(module: ScaledDotProduct, inputs: Mapping[nn.Module, Any]) -> np.ndarray:
    """(heads, N, S) of the only image."""
    return module.weights(*inputs[module])[0].cpu().numpy()


def _predictions(model: DETR, encoded: Encoded, image: Tensor) -> dict[str, Any]:
    decoded = encoded.decoded
    outputs = model.heads(decoded.hs, decoded.reference)
    scores, classes = model.classification.score(outputs["pred_logits"][:, 0])
    height, width = image.shape[-2:]
    size = outputs["pred_boxes"].new_tensor([width, height])
    references = decoded.reference
    if references is not None:
        references = references[:, 0].float()
        if references.shape[-1] == 4:
            references = box_cxcywh_to_xyxy(references)
        references = references.unflatten(-1, (-1, 2)).mul(size).flatten(-2).cpu().numpy()
    boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"][:, 0]) * size.repeat(2)
    return {
        "boxes": boxes.cpu().numpy(),
        "scores": scores.float().cpu().numpy(),
        "classes": classes.cpu().numpy(),
        "references": references,
    }


def _mask_maps(model: DETR, encoded: Encoded) -> np.ndarray | None:
    if model.mask_head is None:
        return None
    memory = encoded.memory
    maps = model.mask_head.attention(encoded.decoded.hs[-1], memory.tokens, memory.mask)
    return maps[0].float().unflatten(-1, memory.shapes[0]).cpu().numpy()
