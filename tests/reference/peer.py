"""The whole panoptic network of the ``transformers`` library, with weights of the original names.

Run as a script it writes ``detr_r50_masks.pt``: python -m tests.reference.peer
"""

import re
from pathlib import Path

import torch

from tests.reference.weights import reference_state_dict

DIRECTORY = Path(__file__).parent
QUERIES = [0, 37, 64, 99]

_BACKBONE = "detr.model.backbone.model."
_RENAMES = (
    (r"^backbone\.0\.body\.conv1\.", _BACKBONE + "embedder.embedder.convolution."),
    (r"^backbone\.0\.body\.bn1\.", _BACKBONE + "embedder.embedder.normalization."),
    (
        r"^backbone\.0\.body\.layer(\d)\.(\d+)\.",
        lambda m: f"{_BACKBONE}encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.",
    ),
    (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^transformer\.(encoder.*)\.norm2\.", r"detr.model.\1.final_layer_norm."),
    (r"^transformer\.(decoder.*)\.norm2\.", r"detr.model.\1.encoder_attn_layer_norm."),
    (r"^transformer\.(.*)\.norm3\.", r"detr.model.\1.final_layer_norm."),
    (r"^transformer\.decoder\.norm\.", "detr.model.decoder.layernorm."),
    (r"^transformer\.", "detr.model."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"\.multihead_attn\.", ".encoder_attn."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.linear(\d)\.", r".mlp.fc\1."),
    (r"^query_embed\.", "detr.model.query_position_embeddings."),
    (r"^input_proj\.", "detr.model.input_projection."),
    (r"^class_embed\.", "detr.class_labels_classifier."),
    (r"^bbox_embed\.", "detr.bbox_predictor."),
    (r"^bbox_attention\.(.)_linear\.", r"bbox_attention.\1_proj."),
    (r"^mask_head\.lay([12])\.", r"mask_head.conv\1.conv."),
    (r"^mask_head\.gn([12])\.", r"mask_head.conv\1.norm."),
    (r"^mask_head\.lay(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 3}.refine.conv."),
    (r"^mask_head\.gn(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 3}.refine.norm."),
    (r"^mask_head\.adapter(\d)\.", lambda m: f"mask_head.fpn_stages.{int(m[1]) - 1}.fpn_adapter."),
    (r"^mask_head\.out_lay\.", "mask_head.output_conv."),
)


def peer_name(name: str) -> str:
    """The name that ``transformers`` gives to a parameter of the original."""
    name = name.removeprefix("detr.")
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def build_peer(state_dict: dict[str, torch.Tensor]) -> torch.nn.Module:
    """DetrForSegmentation with weights of the original names, in evaluation mode."""
    from transformers import DetrConfig, DetrForSegmentation, ResNetConfig

    stages = ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=stages,
        num_labels=len(state_dict["detr.class_embed.bias"]) - 1,
        dropout=0.0,
        attn_implementation="eager",
    )
    weights = {}
    for name, value in state_dict.items():
        name = peer_name(name)
        if ".in_proj_" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            weights[name] = value
    peer = DetrForSegmentation(config)
    peer.load_state_dict(weights)
    return peer.eval()


def peer_inputs(reference: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised, padded images and their mask of ``detr_r50.pt``."""
    mean = torch.tensor([0.485, 0.456, 0.406])
    std = torch.tensor([0.229, 0.224, 0.225])
    sizes = [x.shape[:2] for x in reference["images"]]
    height, width = (max(x) for x in zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, height, width)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (image, (h, w)) in enumerate(zip(reference["images"], sizes, strict=True)):
        pixels[i, :, :h, :w] = ((image / 255 - mean) / std).permute(2, 0, 1)
        mask[i, :h, :w] = 1
    return pixels, mask


def gradient_loss(masks: torch.Tensor) -> torch.Tensor:
    """Any function of the mask logits (2, 4, h, w) of QUERIES that depends on each of them."""
    weight = torch.linspace(-1, 1, masks.numel()).view_as(masks)
    return (masks.sigmoid() * weight.cos()).sum()


def main() -> None:
    reference = torch.load(DIRECTORY / "detr_r50.pt", weights_only=True)
    state_dict = reference_state_dict(masks=True)
    peer = build_peer(state_dict)
    pixels, mask = peer_inputs(reference)
    masks = peer(pixels, mask).pred_masks
    gradient_loss(masks[:, QUERIES]).backward()
    parameters = dict(peer.named_parameters())
    names = [x for x in state_dict if not x.startswith("detr.") or "input_proj" in x]
    grad_norm = {x: parameters[peer_name(x)].grad.norm().item() for x in names}
    output = {"pred_masks": masks[:, QUERIES].detach().clone(), "grad_norm": grad_norm}
    torch.save(output, DIRECTORY / "detr_r50_masks.pt")


if __name__ == "__main__":
    main()
