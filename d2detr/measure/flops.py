"""Parameters and multiply-adds."""

import math
from collections import Counter
from typing import Any

import torch
from detectron2.utils.analysis import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn

from d2detr.measure.modules import in_mode, with_ancestors

# What fvcore counts at some flops per element. These are no products.
_ELEMENTWISE = (
    *("aten::batch_norm", "aten::group_norm", "aten::instance_norm", "aten::layer_norm"),
    *("aten::adaptive_avg_pool2d", "aten::upsample_nearest2d", "aten::upsample_bilinear2d"),
)


def count_parameters(model: nn.Module, trained_only: bool = False) -> Counter[str]:
    """Return the number of parameters by module."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not trained_only:
            for module in with_ancestors(name.rpartition(".")[0]):
                counts[module] += parameter.numel()
    return counts


def count_multiply_adds(model: nn.Module, inputs: Any) -> FlopCountAnalysis:
    """Count the products of an inference: convolutions, matrix products and attention.

    Args:
        model: a module; it is traced, so that nothing it has cached is left out.
        inputs: its argument, or the tuple of its arguments.

    Returns:
        fvcore's analysis, in which ``model`` is the submodule "model".
    """
    with in_mode(model, training=False):
        analysis = FlopCountAnalysis(model, inputs)
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention_multiply_adds)
        analysis.set_op_handle(**dict.fromkeys(_ELEMENTWISE, lambda inputs, outputs: 0))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").total()
    return analysis


def attention_multiply_adds(inputs: list[torch.Value], outputs: list[torch.Value]) -> Counter[str]:
    """Count an ``aten::scaled_dot_product_attention`` of a trace, for fvcore.

    Each query is multiplied with each key, and each of the resulting weights with a value.
    """
    query, key, value = (get_shape(x) for x in inputs[:3])
    return Counter(attention=math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))
