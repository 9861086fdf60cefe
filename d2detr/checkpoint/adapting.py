import logging
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from d2detr.checkpoint import metadata
from d2detr.checkpoint.fitting import fit_tensor
from d2detr.checkpoint.formats import (
    FORMATS,
    WeightFormat,
    recognise_format,
    recognise_other_architecture,
)
from d2detr.checkpoint.load_report import LoadReport
from d2detr.errors import UserError

logger = logging.getLogger(__name__)

_OWN = FORMATS[0]


class LoadsDetrWeights(nn.Module):
    """A model that loads DETR's weights of every format, however they are loaded.

    ``load_state_dict``, DetectionCheckpointer, DefaultPredictor and trainers all end here. Its
    own state dicts tell the names of its classes.

    Attributes:
        class_names: of the model's classes in order, or None.
        trusts_weights: whether weight files may run code, see ``MODEL.WEIGHTS_TRUSTED``.
        load_report: what became of the weights that were loaded last, or None.
    """

    class_names: Sequence[str] | None = None
    trusts_weights: bool = False
    load_report: LoadReport | None = None

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.class_names is not None and hasattr(destination, "_metadata"):
            metadata.describe(destination, prefix, class_names=list(self.class_names))

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict, *args
    ) -> None:
        if not local_metadata.get(metadata.ADAPTED):
            self.adapt_state_dict(state_dict, prefix, local_metadata.get(metadata.CLASS_NAMES))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def adapt_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str = "",
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Give weights of any known format the model's names and shapes, in place.

        Logs a summary and keeps it as ``load_report``.

        Args:
            state_dict: all weights to load; those below ``prefix`` are replaced.
            prefix: where the model stands in ``state_dict``, "" for the model itself.
            class_names: of the weights' classes in order, where known.

        Raises:
            UserError: there are weights, but none for this model.
        """
        keys = [key for key in state_dict if key.startswith(prefix)]
        if not keys:
            return
        weights = {key.removeprefix(prefix): state_dict[key] for key in keys}
        own = {key: x.detach() for key, x in self.state_dict().items()}
        weights, self.load_report = adapt_weights(
            weights, own, class_names=class_names, own_class_names=self.class_names
        )
        for key in keys:
            del state_dict[key]
        state_dict.update({prefix + key: value for key, value in weights.items()})


def adapt_weights(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    class_names: Sequence[str] | None = None,
    own_class_names: Sequence[str] | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Give weights of any known format the names and shapes of a model.

    Args:
        weights: a state dict of any format.
        own: the model's state dict.
        class_names: of the weights' classes in order, where known.
        own_class_names: of the model's classes in order, where known.

    Returns:
        The adapted weights, keys that the model does not know included, and the report.

    Raises:
        UserError: the weights have nothing for this model.
    """
    form = _recognise(weights, own)
    adapted = form.to_d2detr(weights)
    if form.backbone_only:
        adapted = _place_backbone(adapted, own)
    report = LoadReport(form.name, total=len(own))
    for key, value in list(adapted.items()):
        if key not in own:
            if key.endswith("num_batches_tracked"):  # frozen norms have none
                del adapted[key]
            else:
                report.unused.append(key)
            continue
        fitted = fit_tensor(
            key,
            value,
            own[key],
            report,
            class_names=class_names,
            own_class_names=own_class_names,
        )
        if fitted is None:
            del adapted[key]
        else:
            adapted[key] = fitted
            report.loaded.append(key)
    if not report.loaded:
        raise UserError(_explain_misfit(form, weights, own, report))
    reason = (
        "as the weights are of a backbone alone" if form.backbone_only else "not in the weights"
    )
    already_told = {x for keys in report.kept.values() for x in keys}
    for key in own:
        if key not in adapted and key not in already_told:
            report.keep(reason, key)
    _log(report, form)
    return adapted, report


def _recognise(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> WeightFormat:
    form = recognise_format(weights)
    if form is _OWN:
        return form
    other = recognise_other_architecture(weights)
    if other is not None and not weights.keys() <= own.keys():
        raise UserError(
            f"The weights fit no parameter of this model: they are of {other}, not of DETR (they "
            f"have, for example, {list(weights)[:3]})."
        )
    return form or _OWN  # a part of a model, if it is anything


def _place_backbone(weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move a ResNet to where the model has it, which is not ``backbone.`` with a pyramid on it."""
    stem = next((key for key in own if key.endswith("stem.conv1.weight")), "")
    place = stem.removesuffix("stem.conv1.weight") or "backbone."
    return {place + key.removeprefix("backbone."): value for key, value in weights.items()}


def _explain_misfit(
    form: WeightFormat,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    report: LoadReport,
) -> str:
    if report.kept:
        reason, keys = next(iter(report.kept.items()))
        return (
            f"The weights fit no parameter of this model: they are {form.name}, but all of other "
            f"shapes, such as {keys[0]}: {reason}. Compare MODEL.BACKBONE, MODEL.RESNETS and "
            "MODEL.DETR with what they were trained with."
        )
    return (
        f"The weights fit no parameter of this model. The file has, for example, "
        f"{list(weights)[:3]}; the model needs, for example, {list(own)[:3]}."
    )


def _log(report: LoadReport, form: WeightFormat) -> None:
    logger.info("%s", report)
    if any(key.startswith("mask_head.") for keys in report.kept.values() for key in keys):
        logger.warning("The weights have no mask head for this model: it starts from scratch.")
    if not form.backbone_only and not report.has_loaded("transformer."):
        logger.warning(
            "THE TRANSFORMER HAS NO WEIGHTS: it starts from random values, although the weights "
            "are %s. Compare MODEL.DETR with what they were trained with.",
            form.name,
        )
