"""Writing DETR's weights in other formats."""

import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2detr.checkpoint import metadata
from d2detr.checkpoint.class_rows import names_of_classes
from d2detr.checkpoint.conditional import to_conditional
from d2detr.checkpoint.deformable import to_deformable
from d2detr.checkpoint.fetching import fetch_weights
from d2detr.checkpoint.files import read_checkpoint
from d2detr.checkpoint.first_block import dilates_first_block
from d2detr.checkpoint.fitting import class_head
from d2detr.checkpoint.formats import recognise_format, recognise_other_architecture
from d2detr.checkpoint.huggingface import to_huggingface
from d2detr.checkpoint.huggingface_conditional import to_huggingface_conditional
from d2detr.checkpoint.huggingface_deformable import to_huggingface_deformable
from d2detr.checkpoint.original import to_original
from d2detr.checkpoint.releases import RELEASES
from d2detr.checkpoint.renaming import StateDict
from d2detr.checkpoint.variants import recognise_variant
from d2detr.config import load_config
from d2detr.errors import UserError
from d2detr.files import make_folder, open_replacing, replacing
from d2detr.modeling import Classification, SigmoidFocal, SoftmaxWithNoObject

logger = logging.getLogger(__name__)

TARGETS = ("d2detr", "original", "huggingface")
# Blocks per stage, and whether they are bottlenecks, of the ResNets by timm's names.
_RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}


@dataclass(frozen=True)
class Target:
    """What a variant becomes.

    Attributes:
        to_original: renames it to its original.
        to_huggingface: renames it to files of transformers.
        architecture: of transformers, or None.
        model_type: likewise.
        width: what transformers calls the width of tokens.
        classification: of the class head.
        settings: further settings of transformers, of the weights and what they do not tell.
    """

    to_original: Callable[[StateDict], dict[str, Tensor]]
    to_huggingface: Callable[[StateDict], dict[str, Tensor]] = to_huggingface_conditional
    architecture: str | None = None
    model_type: str = ""
    width: str = "d_model"
    classification: type[Classification] = SigmoidFocal
    settings: Callable[[StateDict, "Architecture"], dict[str, Any]] = lambda *_: {}


def _deformable_settings(weights: StateDict, architecture: "Architecture") -> dict[str, Any]:
    offsets = "{}.layers.0.{}.sampling_offsets.bias"
    num_levels = len(weights["transformer.encoder.level_embed.weight"])
    per_point = 2 * num_levels * architecture.num_heads
    return {
        "with_box_refine": "heads.0.class_embed.bias" in weights,
        "two_stage": "transformer.proposals.norm.bias" in weights,
        "two_stage_num_proposals": architecture.num_queries,
        "num_feature_levels": num_levels,
        **{
            f"{part}_n_points": len(weights[f"transformer.{offsets.format(part, attention)}"])
            // per_point
            for part, attention in (("encoder", "self_attn"), ("decoder", "cross_attn"))
        },
    }


_TARGETS = {
    "DETR": Target(to_original, to_huggingface, "Detr", "detr", classification=SoftmaxWithNoObject),
    "Conditional DETR": Target(
        to_conditional, architecture="ConditionalDetr", model_type="conditional_detr"
    ),
    "DAB-DETR": Target(
        to_conditional,
        architecture="DabDetr",
        model_type="dab-detr",
        width="hidden_size",
        settings=lambda weights, _: {
            "num_patterns": len(weights.get("transformer.decoder.patterns", ()))
        },
    ),
    "DN-DETR": Target(to_conditional),
    **{
        name: Target(
            to_deformable,
            to_huggingface_deformable,
            "DeformableDetr",
            "deformable_detr",
            settings=_deformable_settings,
        )
        for name in (
            "Deformable DETR",
            "Deformable DETR with refinement",
            "two-stage Deformable DETR",
        )
    },
    "DINO": Target(to_deformable),
}


@dataclass
class Architecture:
    """What a network's weights do not tell about it.

    Attributes:
        num_heads: attention heads.
        num_queries: of two-stage models, which have no learned ones.
        dilation: whether the last stage of the backbone is dilated (DC5).
    """

    num_heads: int = 8
    num_queries: int = 300
    dilation: bool = False


def convert_checkpoint(
    source: str,
    output: str,
    to: str,
    *,
    num_heads: int | None = None,
    dilation: bool | None = None,
    config_file: str = "",
    trusted: bool = False,
) -> None:
    """Write the weights of ``source`` in another format; every tensor stays as it is.

    Args:
        source: whatever ``MODEL.WEIGHTS`` takes.
        output: the file to write; for "huggingface" a folder that ``from_pretrained`` takes.
        to: one of :data:`TARGETS`.
        num_heads: attention heads; where neither this nor ``config_file`` nor ``source`` tells, 8.
        dilation: whether the backbone is DC5; if None, ``config_file``, ``source`` or the name of
            a released file must tell, for "huggingface".
        config_file: a config of the model, or "".
        trusted: see :func:`read_checkpoint`.

    Raises:
        UserError: there is no such file, it holds no whole DETR, ``output`` exists, the target
            cannot express the model, or nothing tells whether it is DC5.
    """
    if Path(output).exists():
        raise UserError(f"--output {output} exists; it is not overwritten.")
    path = fetch_weights(source, key="--input")
    model = read_checkpoint(path, trusted)["model"]
    form = recognise_format(model)
    if form is None or form.backbone_only:
        found = recognise_other_architecture(model) or (form.name if form else "of unknown format")
        raise UserError(f"{source} cannot be converted: its weights are {found}, not a whole DETR.")
    logger.info("%s is %s, %d tensors.", source, form.name, len(model))
    facts = metadata.description(model)
    given = {
        metadata.NUM_HEADS: num_heads,
        metadata.RES5_DILATION: None if dilation is None else 1 + dilation,
    }
    facts = {
        **_facts_of_release(Path(path).name),
        **{key: facts[key] for key in metadata.FACTS if key in facts},
        **(_facts_of_config(config_file) if config_file else {}),
        **{key: value for key, value in given.items() if value is not None},
    }
    told = dilates_first_block(model, form, facts)
    if told is not None:
        facts[metadata.DILATES_FIRST_BLOCK] = told
    if to != "d2detr" and told and facts.get(metadata.RES5_DILATION, 1) > 1:
        raise UserError(
            f"{source} cannot be converted to {to}: its DC5 backbone dilates the first block of "
            "the last stage, as Detectron2's does, and a backbone there does not."
        )
    weights = form.to_d2detr(model)
    target = _target(weights, source)
    if to == "huggingface":
        architecture = _architecture(facts, source)
        write_huggingface(weights, Path(output), facts.get(metadata.CLASS_NAMES), architecture)
        return
    renamed = OrderedDict(target.to_original(weights) if to == "original" else weights)
    metadata.describe(renamed, **facts)
    make_folder(Path(output).parent)
    with open_replacing(output, "wb") as file:
        torch.save({"model": renamed}, file)


def huggingface_config(
    weights: Mapping[str, Tensor], class_names: Sequence[str] | None, architecture: Architecture
) -> dict[str, Any]:
    """Return the ``config.json`` of a transformers DETR with these weights.

    Args:
        weights: with the keys of :class:`d2detr.modeling.DETR`.
        class_names: in order, where known.
        architecture: what ``weights`` do not tell.

    Raises:
        UserError: the library has no such DETR.
    """
    target = _target(weights, "The model")
    if target.architecture is None:
        raise UserError(
            "transformers has no DN-DETR and no DINO: leave it as it is, or convert it to original."
        )
    if "transformer.encoder.norm.weight" in weights:
        raise UserError("DETR in transformers has no pre-norm layers (MODEL.DETR.PRE_NORM).")
    extra_rows = len(target.classification.extra_rows)
    head = class_head(weights)
    if head is None:
        raise UserError("The weights have no class head, so that transformers cannot take them.")
    num_classes = len(head) - extra_rows
    names = names_of_classes(num_classes, class_names) or [None] * num_classes
    queries = weights.get("transformer.decoder.query_embed.weight")
    num_queries = architecture.num_queries if queries is None else len(queries)
    layers = Counter(key.split(".")[1] for key in weights if key.endswith(".linear1.weight"))
    ffn_dim = len(weights["transformer.decoder.layers.0.linear1.weight"])
    learned = any(key.startswith("position_encoding.") for key in weights)
    sizes = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in (
            ("layers", layers[part]),
            ("ffn_dim", ffn_dim),
            ("attention_heads", architecture.num_heads),
        )
    }
    masks = any(key.startswith("mask_head.") for key in weights)
    if masks and target.architecture != "Detr":
        raise UserError(f"A {target.architecture} with masks cannot be converted to transformers.")
    kind = "Segmentation" if masks else "ObjectDetection"
    return {
        "architectures": [f"{target.architecture}For{kind}"],
        "model_type": target.model_type,
        "backbone": _resnet_name(weights),
        "use_timm_backbone": True,
        "use_pretrained_backbone": False,
        "dilation": architecture.dilation,
        "position_embedding_type": "learned" if learned else "sine",
        target.width: head.shape[1],
        "num_queries": num_queries,
        **sizes,
        **target.settings(weights, architecture),
        "id2label": {str(i): name or f"LABEL_{i}" for i, name in enumerate(names)},
        "label2id": {name or f"LABEL_{i}": i for i, name in enumerate(names)},
    }


def write_huggingface(
    weights: Mapping[str, Tensor],
    folder: Path,
    class_names: Sequence[str] | None,
    architecture: Architecture,
) -> None:
    """Write a folder that the library's ``from_pretrained`` takes.

    Args:
        weights: with the keys of :class:`d2detr.modeling.DETR`.
        folder: to make.
        class_names: in order, where known.
        architecture: what ``weights`` do not tell.
    """
    from safetensors.torch import save

    config = huggingface_config(weights, class_names, architecture)
    target = _target(weights, "The model")
    hub = {key: value.contiguous().clone() for key, value in target.to_huggingface(weights).items()}
    make_folder(folder.parent)
    with replacing(folder) as partial:
        partial.mkdir()
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (partial / "model.safetensors").write_bytes(save(hub, metadata={"format": "pt"}))


def _target(weights: Mapping[str, Tensor], source: str) -> Target:
    variant = recognise_variant(weights)
    if variant is None:
        raise UserError(f"{source} cannot be converted: its decoder is none of this package's.")
    return _TARGETS[variant.name]


def _facts_of_release(name: str) -> dict[str, Any]:
    if name not in RELEASES.values():
        return {}
    return {metadata.NUM_HEADS: 8, metadata.RES5_DILATION: 2 if "dc5" in name else 1}


def _facts_of_config(config_file: str) -> dict[str, Any]:
    model = load_config(config_file).MODEL
    facts = {
        metadata.NUM_HEADS: model.DETR.NHEADS,
        metadata.NUM_QUERIES: model.DETR.NUM_OBJECT_QUERIES,
        metadata.RES5_DILATION: model.RESNETS.RES5_DILATION,
    }
    if model.DETR.DC5_FIRST_BLOCK != "auto":
        facts[metadata.DILATES_FIRST_BLOCK] = model.DETR.DC5_FIRST_BLOCK == "dilated"
    return facts


def _architecture(facts: Mapping[str, Any], source: str) -> Architecture:
    if metadata.RES5_DILATION not in facts:
        raise UserError(
            f"Nothing tells whether the backbone of {source} is dilated (DC5), as its weights look "
            "the same: add --dc5 or --no-dc5, or --config-file with the config of the model."
        )
    return Architecture(
        num_heads=facts.get(metadata.NUM_HEADS, 8),
        num_queries=facts.get(metadata.NUM_QUERIES, 300),
        dilation=facts[metadata.RES5_DILATION] > 1,
    )


def _resnet_name(weights: Mapping[str, Tensor]) -> str:
    blocks = {tuple(key.split(".")[1:3]) for key in weights if key.startswith("backbone.res")}
    counts = Counter(stage for stage, _ in blocks)
    depths = tuple(counts[f"res{stage}"] for stage in (2, 3, 4, 5))
    name = _RESNETS.get((depths, "backbone.res2.0.conv3.weight" in weights))
    if name is None:
        raise UserError(
            f"transformers has no such backbone: the stages of this one have {depths} blocks."
        )
    return name
