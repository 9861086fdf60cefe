"""Fitting weights of every known format to a model."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from d2detr.checkpoint import metadata
from d2detr.checkpoint.first_block import choose_first_block, dilates_first_block
from d2detr.checkpoint.fitting import fit_tensor
from d2detr.checkpoint.formats import (
    FORMATS,
    WeightFormat,
    recognise_format,
    recognise_other_architecture,
)
from d2detr.checkpoint.load_report import LoadReport
from d2detr.checkpoint.variants import check_classification, check_variant
from d2detr.errors import UserError
from d2detr.modeling import DETR

logger = logging.getLogger(__name__)

_OWN = FORMATS[0]


def find_detrs(model: nn.Module) -> dict[str, DETR]:
    """Return every DETR that a model is or holds, by the prefix of its parameters."""
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules()
        if isinstance(module, DETR)
    }


def adapt_weights(
    weights: Mapping[str, Tensor],
    model: nn.Module,
    *,
    partial: bool = False,
    source: str = "The weights",
) -> tuple[OrderedDict[str, Tensor], LoadReport]:
    """Give weights of any known format the names and shapes of a model.

    A DC5 backbone's first block is dilated as the weights were trained; nothing else of the model
    changes, whose ``load_state_dict`` takes what is returned.

    Args:
        weights: a state dict of any format, whose metadata may tell its classes' names.
        model: what is or holds a :class:`d2detr.modeling.DETR`.
        partial: take weights of a DETR that leave the whole backbone or transformer random.
        source: of the weights, for messages.

    Returns:
        The adapted weights, keys that the model does not know included, and the report, which is
        logged.

    Raises:
        UserError: the weights have nothing for the model, leave its backbone or its transformer
            random, or are not finite.
    """
    own = {key: value.detach() for key, value in model.state_dict().items()}
    report = LoadReport("of another architecture", total=len(own))
    adapted: OrderedDict[str, Tensor] = OrderedDict()
    detrs = find_detrs(model)
    for prefix, detr in detrs.items():
        part, part_report = _adapt_to_detr(
            _below(prefix, weights),
            _below(prefix, own),
            detr,
            metadata.description(weights, prefix),
            partial=partial,
            source=source,
        )
        adapted.update((prefix + key, value) for key, value in part.items())
        report.add(part_report, prefix)
    others = {key: value for key, value in weights.items() if not key.startswith(tuple(detrs))}
    other_own = {key: value for key, value in own.items() if not key.startswith(tuple(detrs))}
    adapted.update(_fit(others, other_own, report, source))
    if weights and not report.loaded:
        raise UserError(_explain_misfit(weights, own, report, source))
    logger.info("%s", report)
    return adapted, report


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def _adapt_to_detr(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    detr: DETR,
    facts: Mapping[str, Any],
    *,
    partial: bool,
    source: str,
) -> tuple[dict[str, Tensor], LoadReport]:
    form = _recognise(weights, own, source)
    renamed = form.to_d2detr(weights)
    if form.backbone_only:
        renamed = place_backbone(renamed, own)
    else:
        check_variant(renamed, own, source)
        check_classification(renamed, detr.classification, form, facts, source)
    report = LoadReport(form.name, total=len(own))
    adapted = _fit(
        renamed,
        own,
        report,
        source,
        backbone_only=form.backbone_only,
        class_names=facts.get(metadata.CLASS_NAMES),
        own_class_names=detr.class_names,
        extra_rows=detr.classification.extra_rows,
        proposals_have_classes=getattr(detr.transformer.proposals, "have_classes", True),
    )
    if any(key.startswith("mask_head.") for key in report.random):
        logger.warning("The weights have no mask head for this model: it starts from scratch.")
    if report.loaded and not form.backbone_only:
        _check_whole(own, report, partial, source)
        choose_first_block(detr, dilates_first_block(weights, form, facts))
    return adapted, report


def _recognise(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str
) -> WeightFormat:
    form = recognise_format(weights)
    if form is _OWN:
        return form
    other = recognise_other_architecture(weights)
    if other is not None and not weights.keys() <= own.keys():
        raise UserError(
            f"{source} fit no parameter of this model: they are of {other}, not of DETR (they "
            f"have, for example, {list(weights)[:3]})."
        )
    return form or _OWN  # a part of a model, if it is anything


def place_backbone(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a ResNet to where the model has it, which is not ``backbone.`` with a pyramid on it."""
    stem = next((key for key in own if key.endswith("stem.conv1.weight")), "")
    place = stem.removesuffix("stem.conv1.weight") or "backbone."
    return {place + key.removeprefix("backbone."): value for key, value in weights.items()}


def _fit(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    report: LoadReport,
    source: str,
    *,
    backbone_only: bool = False,
    class_names: Sequence[str] | None = None,
    own_class_names: Sequence[str] | None = None,
    extra_rows: Sequence[str] = (),
    proposals_have_classes: bool = True,
) -> dict[str, Tensor]:
    """Give weights with the model's names the model's shapes, and report what becomes of each."""
    fitted = {}
    for key, value in weights.items():
        if key not in own:
            if not key.endswith("num_batches_tracked"):  # frozen norms have none
                report.unused.append(key)
                fitted[key] = value
            continue
        tensor = fit_tensor(
            key,
            value,
            own[key],
            report,
            class_names=class_names,
            own_class_names=own_class_names,
            extra_rows=extra_rows,
            proposals_have_classes=proposals_have_classes,
        )
        if tensor is not None:
            fitted[key] = tensor
            report.loaded.append(key)
    _check_finite(fitted, own, source)
    reason = "as the weights are of a backbone alone" if backbone_only else "not in the weights"
    told = set(report.random)
    for key in own:
        if key not in fitted and key not in told:
            report.keep(reason, key)
    return fitted


def _check_finite(fitted: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    faulty = [
        key
        for key, value in fitted.items()
        if key in own
        and value.is_floating_point()
        and not value.isfinite().all()
        and own[key].isfinite().all()  # a mask of -inf may be among the buffers
    ]
    if faulty:
        raise UserError(
            f"{source} hold values that are NaN or infinite in {len(faulty)} tensors, such as "
            f"{faulty[0]}: the training that wrote them had diverged, or the file is damaged. Take "
            "an earlier checkpoint."
        )


def _check_whole(own: Mapping[str, Tensor], report: LoadReport, partial: bool, source: str) -> None:
    for part, keys in (
        ("backbone", "MODEL.BACKBONE and MODEL.RESNETS"),
        ("transformer", "MODEL.DETR"),
    ):
        if report.has_loaded(f"{part}.") or not any(key.startswith(f"{part}.") for key in own):
            continue
        unused = f" Not used are, for example, {report.unused[:3]}." if report.unused else ""
        message = (
            f"{source} leave the whole {part} random, although they are {report.format}."
            f"{unused} Compare {keys} with what they were trained with."
        )
        if not partial:
            raise UserError(
                f"{message} To start from them nevertheless, add ?partial=True to their path."
            )
        logger.warning(message)


def _explain_misfit(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], report: LoadReport, source: str
) -> str:
    shapes = [(reason, keys[0]) for reason, keys in report.kept.items() if reason.startswith("(")]
    if shapes:
        reason, key = shapes[0]
        return (
            f"{source} fit no parameter of this model: they are {report.format}, but all of other "
            f"shapes, such as {key}: {reason}. Compare MODEL.BACKBONE, MODEL.RESNETS and "
            "MODEL.DETR with what they were trained with."
        )
    return (
        f"{source} fit no parameter of this model. They have, for example, {list(weights)[:3]}; "
        f"the model needs, for example, {list(own)[:3]}."
    )
