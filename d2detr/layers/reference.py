"""Reference points and boxes: what a decoder's queries look at, and what boxes start from."""

import math

import torch
from torch import Tensor


def inverse_sigmoid(x: Tensor, eps: float) -> Tensor:
    """Return what the sigmoid makes ``x`` of, with ``x`` and ``1 - x`` at least ``eps``."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def move_reference(delta: Tensor, reference: Tensor, eps: float) -> Tensor:
    """Return boxes that lie ``delta`` away from their references.

    Args:
        delta: (..., 4), added to the references before the sigmoid.
        reference: (..., 2) centres or (..., 4) boxes, in [0, 1].
        eps: of :func:`inverse_sigmoid`.

    Returns:
        (..., 4), centre, width and height in [0, 1].
    """
    start = inverse_sigmoid(reference, eps)
    if start.shape[-1] == 2:
        start = torch.cat((start, torch.zeros_like(start)), -1)
    return (delta + start).sigmoid()


def sine_of_reference(reference: Tensor, num_features: int, temperature: float = 10000.0) -> Tensor:
    """Encode the coordinates of references, each with sines and cosines in turn.

    Args:
        reference: (..., 2) x, y or (..., 4) x, y, width, height, in [0, 1].
        num_features: of each coordinate; even.
        temperature: ratio of the longest to the shortest wavelength.

    Returns:
        (..., coordinates * features), in the order y, x, width, height.
    """
    exponent = 2 * (torch.arange(num_features, device=reference.device) // 2) / num_features
    y_first = torch.cat((reference[..., [1, 0]], reference[..., 2:]), -1)
    angle = (y_first * (2 * math.pi))[..., None] / temperature**exponent
    encoded = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1)
    return encoded.flatten(-3)
