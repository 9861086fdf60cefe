"""What a model costs: parameters, multiply-adds and memory, by module."""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from tabulate import tabulate

from d2detr.errors import UserError
from d2detr.measure.flops import count_multiply_adds, count_parameters
from d2detr.measure.memory import bytes_kept_for_backward, inference_peak_bytes
from d2detr.measure.modules import with_ancestors

COST_TASKS = ("parameter", "flop", "activation", "structure")


@dataclass
class Analysis:
    """What :func:`analyze` found; what was not asked for is empty.

    Numbers by module include those of the submodules; the whole model is called "".

    Attributes:
        modules: names of all modules.
        device: where memory is measured.
        structure: the modules as PyTorch prints them.
        parameters: by module.
        trained_parameters: by module, those that need a gradient.
        multiply_adds: of an inference, by module.
        multiply_adds_by_operator: of an inference.
        uncounted_operators: those of other libraries than PyTorch: they may multiply, too.
        kept_bytes: what the forward pass of training keeps for the backward pass, by module; see
            :func:`bytes_kept_for_backward`.
        inference_peak_bytes: see :func:`inference_peak_bytes`.
    """

    modules: list[str]
    device: str
    structure: str = ""
    parameters: Counter[str] = field(default_factory=Counter)
    trained_parameters: Counter[str] = field(default_factory=Counter)
    multiply_adds: Counter[str] = field(default_factory=Counter)
    multiply_adds_by_operator: Counter[str] = field(default_factory=Counter)
    uncounted_operators: list[str] = field(default_factory=list)
    kept_bytes: Counter[str] = field(default_factory=Counter)
    inference_peak_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by attribute, for JSON."""
        return {name: x for name, x in vars(self).items() if x and name != "modules"}

    def describe(self, depth: int = 2) -> str:
        """Return a table of the modules down to a depth, and what the totals mean."""
        parts = [self.structure, self._table(depth)]
        if self.multiply_adds:
            total = self.multiply_adds[""] / 1e9
            operators = self.multiply_adds_by_operator.most_common()
            listed = ", ".join(f"{name} {count / 1e9:,.3f} G" for name, count in operators)
            parts.append(
                f"Inference takes {total:,.3f} G multiply-adds (the FLOPs of most papers, DETR's "
                f"included): {listed}."
            )
        if self.uncounted_operators:
            parts.append(f"Not counted: {', '.join(self.uncounted_operators)}.")
        if self.kept_bytes:
            parts.append(
                f"Inference holds at most {self.inference_peak_bytes / 2**20:,.1f} MiB of tensors "
                "at a time, besides weights and input. In training the forward pass keeps "
                f"{self.kept_bytes[''] / 2**20:,.1f} MiB for the backward pass, besides weights. "
                f"Both were measured on {self.device}; other devices keep other things."
            )
        return "\n\n".join(x for x in parts if x)

    def _table(self, depth: int) -> str:
        columns = {
            "parameters": (self.parameters, 1, ",.0f"),
            "trained": (self.trained_parameters, 1, ",.0f"),
            "multiply-adds (G)": (self.multiply_adds, 1e9, ",.3f"),
            "kept for backward (MiB)": (self.kept_bytes, 2**20, ",.1f"),
        }
        columns = {name: x for name, x in columns.items() if x[0]}
        rows = []
        for name in self.modules:
            level = len(list(with_ancestors(name))) - 1
            if level <= depth and any(counts[name] for counts, *_ in columns.values()):
                cells = [format(counts[name] / unit, f) for counts, unit, f in columns.values()]
                rows.append([f"{'. ' * level}{name.rpartition('.')[2] or 'model'}", *cells])
        if not columns:
            return ""
        headers, align = ("module", *columns), ("left", *["right"] * len(columns))
        return tabulate(rows, headers, "pipe", colalign=align, disable_numparse=True)


def analyze(
    cfg: CfgNode, tasks: Collection[str] = COST_TASKS, *, size: tuple[int, int], batch: int = 1
) -> Analysis:
    """Count and measure what the model of a config costs, without its weights.

    Args:
        cfg: a config with DETR's keys.
        tasks: any of ``COST_TASKS``.
        size: height and width of the images in pixels.
        batch: number of images.

    Raises:
        UserError: the batch is empty, or the model cannot be built.
    """
    if batch < 1:
        raise UserError(f"A batch of {batch} images is empty: there is nothing to count.")
    cfg = cfg.clone()
    cfg.defrost()
    # A model without its weights finds nothing, and no masks would be made of that.
    cfg.MODEL.DETR.TEST.SCORE_THRESHOLD = 0.0
    cfg.MODEL.COMPILE = False  # what is compiled cannot be traced, and costs the same
    model, inputs = build_model(cfg), synthetic_inputs(size, batch)

    analysis = Analysis([name for name, _ in model.named_modules()], cfg.MODEL.DEVICE)
    if "structure" in tasks:
        analysis.structure = str(model)
    if "parameter" in tasks:
        analysis.parameters = count_parameters(model)
        analysis.trained_parameters = count_parameters(model, trained_only=True)
    if "flop" in tasks:
        traced = count_multiply_adds(model, [{"image": x["image"]} for x in inputs])
        for name, count in traced.by_module().items():
            analysis.multiply_adds[name.removeprefix("model").removeprefix(".")] = int(count)
        for name, count in traced.by_operator().items():
            analysis.multiply_adds_by_operator[name] = int(count)
        unknown = traced.unsupported_ops()
        analysis.uncounted_operators = sorted(x for x in unknown if not x.startswith("aten::"))
    if "activation" in tasks:
        analysis.kept_bytes = bytes_kept_for_backward(model, inputs, amp=cfg.SOLVER.AMP.ENABLED)
        analysis.inference_peak_bytes = inference_peak_bytes(model, inputs)
    return analysis


def parse_size(text: str) -> tuple[int, int]:
    """Read a height and a width in pixels, such as "800x1200".

    Raises:
        UserError: it is something else.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size {text} is no height and width in pixels, such as 800x1200.")
    return int(match[1]), int(match[2])


def synthetic_inputs(
    size: tuple[int, int], batch: int = 1, num_objects: int = 10
) -> list[dict[str, Any]]:
    """Return a batch of black images to train on or to detect in.

    Args:
        size: height and width in pixels.
        batch: number of images.
        num_objects: of each image, with box, mask and class 0.
    """
    height, width = size
    instances = Instances(size)
    box = torch.tensor([0.0, 0.0, width / 2, height / 2])
    instances.gt_boxes = Boxes(box.repeat(num_objects, 1))
    instances.gt_classes = torch.zeros(num_objects, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.ones(num_objects, *size, dtype=torch.bool))
    image = torch.zeros(3, *size, dtype=torch.uint8)
    return [{"image": image, "height": height, "width": width, "instances": instances}] * batch
