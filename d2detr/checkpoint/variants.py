"""Which member of DETR's family weights are of, and whether a model is the same."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from d2detr.checkpoint import metadata
from d2detr.checkpoint.fitting import class_head
from d2detr.errors import UserError
from d2detr.modeling import Classification

if TYPE_CHECKING:
    from d2detr.checkpoint.formats import WeightFormat


@dataclass(frozen=True)
class Variant:
    """A member of the family.

    Attributes:
        name: for people.
        patterns: each of a key, in the names of this model, that together no variant after it has.
        config: that builds it.
    """

    name: str
    patterns: tuple[str, ...]
    config: str


_SAMPLING = r"transformer\.decoder\.layers\.\d+\.cross_attn\.sampling_offsets\."

VARIANTS = (
    Variant(
        "DINO", (_SAMPLING, r"transformer\.decoder\.position_head\."), "dino_r50_4scale_12ep.yaml"
    ),
    Variant(
        "two-stage Deformable DETR",
        (_SAMPLING, r"transformer\.decoder\.query_head\."),
        "deformable_detr_r50_two_stage.yaml",
    ),
    Variant(
        "Deformable DETR with refinement",
        (_SAMPLING, r"heads\.\d+\."),
        "deformable_detr_r50_refine.yaml",
    ),
    Variant("Deformable DETR", (_SAMPLING,), "deformable_detr_r50.yaml"),
    Variant("DN-DETR", (r"denoising\.",), "dn_detr_r50.yaml"),
    Variant("DAB-DETR", (r"transformer\.decoder\.size_head\.",), "dab_detr_r50.yaml"),
    Variant(
        "Conditional DETR",
        (r"transformer\.decoder\.reference_head\.",),
        "conditional_detr_r50.yaml",
    ),
    Variant("DETR", (r"transformer\.decoder\.layers\.\d+\.multihead_attn\.",), "detr_r50.yaml"),
)


def recognise_variant(keys: Iterable[str]) -> Variant | None:
    """Return the variant that the model's names of parameters tell, or None."""
    keys = list(keys)

    def has(pattern: str) -> bool:
        return any(re.match(pattern, key) for key in keys)

    return next((x for x in VARIANTS if all(map(has, x.patterns))), None)


def check_variant(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Check that weights with the model's names are of the model's variant.

    A DAB-DETR takes those of a DN-DETR whose embedding of no label is zero, as all are that were
    trained without denoising.

    Raises:
        UserError: they are of another.
    """
    given, wanted = recognise_variant(weights), recognise_variant(own)
    if given is None or wanted is None or given is wanted:
        return
    labels = weights.get("denoising.label_embed.weight")
    if wanted.name == "DAB-DETR" and labels is not None and not labels[-1].any():
        return
    raise UserError(
        f"{source} are of {given.name}, but the model is {wanted.name}: use a config for "
        f"{given.name}, such as {given.config}, or weights of {wanted.name}."
    )


def check_classification(
    weights: Mapping[str, Tensor],
    classification: Classification,
    form: "WeightFormat",
    facts: Mapping[str, Any],
    source: str,
) -> None:
    """Check that the class head of weights means what the model's does.

    Raises:
        UserError: it means something else, or has a row for no-object and the model has none.
    """
    given = facts.get(metadata.CLASSIFICATION) or form.classification
    head = class_head(weights)
    if head is None:
        return
    if given is not None and given != classification.name:
        raise UserError(
            f"{source} were trained with MODEL.DETR.CLASSIFICATION {given!r}, but the model has "
            f"{classification.name!r}: set it to {given!r}, or take other weights."
        )
    if given is None and len(head) == classification.num_classes + 1 != classification.num_logits:
        raise UserError(
            f"{source} have a class head of {len(head)} rows, one for no-object among them, where "
            f"the model has {classification.num_classes} classes and no no-object: set "
            "MODEL.DETR.CLASSIFICATION to 'softmax', or take other weights."
        )
