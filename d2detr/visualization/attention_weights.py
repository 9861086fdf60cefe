"""Where a model looks in one image, computed once more from what its attention was given."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import DeformableAttention, ScaledDotProduct, box_cxcywh_to_xyxy
from d2detr.modeling import DETR, Encoded, Memory

_KINDS = (ScaledDotProduct, DeformableAttention)
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
    are float32, and weights are those of every head. Of several feature maps, the cells are those
    of the backbone's coarsest. What deformable attention samples, in any of the maps, counts for
    the cells around it; what it samples beyond the image, for none.

    Attributes:
        encoder: (E, heads, h, w, h, w) weights of the last two axes' cells for the cell before
            them; they sum to 1, or less where samples lie beyond the image.
        decoder: (L, heads, Q, h, w) weights of the cells for each query; they sum likewise.
        samples: (L, heads, Q, S, 3) x and y in pixels of the image, and weight, of what each query
            samples in all of the feature maps; the weights sum to 1. None without deformable
            attention.
        masks: (Q, heads, h, w) the mask head's maps; they sum to 1 over heads and cells. None
            without a mask head.
    """

    encoder: np.ndarray
    decoder: np.ndarray
    samples: np.ndarray | None
    masks: np.ndarray | None


@torch.no_grad()
def attention(model: nn.Module, image: Tensor) -> Attention:
    """Run a model on an image, and tell where it looked.

    The encoder's weights take 4 E heads (h w)^2 bytes: 140 MB for DETR and 850 cells.

    Args:
        model: in any mode, which it keeps.
        image: (3, H, W) in [0, 255], resized and with channels ordered as the model takes it.

    Raises:
        UserError: the model is no DETR, or has attention of another kind.
    """
    model = _require_detr(model)
    transformer = model.transformer
    encoder = [_only_attention(layer) for layer in transformer.encoder.layers]
    decoder = [_only_attention(layer, besides="self_attn.") for layer in transformer.decoder.layers]
    with _inference(model), _inputs_of([*encoder, *decoder]) as inputs:
        images = model.preprocess_image([{"image": image}])
        encoded = model.encode(images)
    cells = encoded.memory.level(model.mask_level)
    (grid,), (h, w) = cells.shapes, _unpadded_grid(cells)
    start = sum(encoded.memory.cells_per_level[: model.mask_level])
    own_cells = slice(start, start + cells.tokens.shape[1])
    num_heads = transformer.decoder.num_heads
    # Joined in place, since they are too large for a second copy.
    encoder_weights = np.empty((len(encoder), num_heads, h, w, h, w), np.float32)
    for layer_weights, module in zip(encoder_weights, encoder, strict=True):
        weights = _weights(module, inputs, grid, own_cells).unflatten(1, grid)
        layer_weights[:] = weights[:, :h, :w, :h, :w].cpu()
    decoder_weights = [_weights(module, inputs, grid)[..., :h, :w] for module in decoder]
    masks = _mask_maps(model, encoded)
    return Attention(
        encoder=encoder_weights,
        decoder=torch.stack(decoder_weights).cpu().numpy(),
        samples=_samples(decoder, inputs, images.tensor.shape[-2:]),
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


def _only_attention(
    layer: nn.Module, besides: str = "none"
) -> ScaledDotProduct | DeformableAttention:
    """The attention of a layer to the image, with other names than those that begin so."""
    found = [
        module
        for name, module in layer.named_modules()
        if isinstance(module, _KINDS) and not name.startswith(besides)
    ]
    if len(found) != 1:
        raise UserError(
            f"A {type(layer).__name__} has {len(found)} attentions to the image that weigh cells "
            "or samples, but must have one to be explained."
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
def _inputs_of(modules: list[nn.Module]) -> Iterator[_Inputs]:
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


def _weights(
    module: ScaledDotProduct | DeformableAttention,
    inputs: _Inputs,
    grid: tuple[int, int],
    queries: slice = slice(None),
) -> Tensor:
    """(heads, N, *grid) of the only image."""
    if isinstance(module, DeformableAttention):
        locations, weights = _places(module, inputs, queries)
        return _splat(locations, weights, grid)
    weights = module.weights(**inputs[module])[0]
    height, width = grid
    if weights.shape[-1] != height * width:
        raise UserError(
            "Attention that weighs every cell of several feature maps cannot be shown: only "
            "deformable attention can (MODEL.DETR.ENCODER, DECODER), or take one feature map."
        )
    return weights.unflatten(-1, grid)


def _places(
    module: DeformableAttention, inputs: _Inputs, queries: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """x, y (heads, N, S, 2) in parts of the padded image, and weights (heads, N, S)."""
    given = inputs[module]
    locations, weights = module.places(
        given["query"][:, queries], given["reference"][:, queries], given["shapes"]
    )
    return locations[0].flatten(2, 3).transpose(0, 1), weights[0].flatten(2).transpose(0, 1)


def _samples(
    modules: Sequence[nn.Module], inputs: _Inputs, size: tuple[int, int]
) -> np.ndarray | None:
    """(L, heads, N, S, 3) of the only image, whose padded size is given."""
    deformable = [module for module in modules if isinstance(module, DeformableAttention)]
    if len(deformable) < len(modules):
        return None
    height, width = size
    layers = []
    for module in deformable:
        locations, weights = _places(module, inputs)
        pixels = locations * locations.new_tensor([width, height])
        layers.append(torch.cat((pixels, weights[..., None]), -1).float())
    return torch.stack(layers).cpu().numpy()


def _splat(locations: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share weights (heads, N, S) among the cells around their locations: (heads, N, *grid)."""
    height, width = grid
    place = locations * locations.new_tensor([width, height]) - 0.5
    corner = place.floor()
    far = place - corner
    result = weights.new_zeros(*weights.shape[:2], height * width)
    for x_step, x_share in ((0, 1 - far[..., 0]), (1, far[..., 0])):
        for y_step, y_share in ((0, 1 - far[..., 1]), (1, far[..., 1])):
            x, y = corner[..., 0] + x_step, corner[..., 1] + y_step
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share = (weights * x_share * y_share).masked_fill(~inside, 0)
            cell = (y * width + x).masked_fill(~inside, 0).long()
            result.scatter_add_(-1, cell, share)
    return result.unflatten(-1, grid)


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
    memory = encoded.memory.level(model.mask_level)
    maps = model.mask_head.attention(encoded.decoded.hs[-1], memory.tokens, memory.mask)
    return maps[0].float().unflatten(-1, memory.shapes[0])
