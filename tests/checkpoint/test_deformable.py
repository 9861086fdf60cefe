"""Weights of Deformable DETR and DINO: every format gives the same predictions."""

import re

import pytest
import torch

from d2detr.checkpoint import load_weights
from d2detr.checkpoint.convert import convert_checkpoint
from d2detr.checkpoint.deformable import from_deformable, to_deformable
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    build_member,
    predict,
    save,
)
from tests.checkpoint.test_huggingface import predict_with_theirs

CONFIGS = {
    "plain": "deformable_detr_r50.yaml",
    "refine": "deformable_detr_r50_refine.yaml",
    "two_stage": "deformable_detr_r50_two_stage.yaml",
    "dino": "dino_r50_4scale_12ep.yaml",
}


def build(name, seed=None, **settings):
    return build_member(CONFIGS[name], seed, **settings)


@pytest.mark.parametrize("name", CONFIGS)
def test_original_names_and_back(name, tmp_path):
    trained, model = build(name, seed=3), build(name)
    original = to_deformable(trained.state_dict())
    assert_same_tensors(dict(from_deformable(original)), dict(trained.state_dict()))
    path = tmp_path / "original.pth"
    torch.save({"model": original}, path)
    report = load_weights(model, str(path))
    assert not report.random
    assert not report.unused
    assert_same_predictions(predict(model), predict(trained))


DETREX = (
    (r"(encoder|decoder)(\.layers\.\d+\.)linear1\.", r"\1\2ffns.0.layers.0.0."),
    (r"(encoder|decoder)(\.layers\.\d+\.)linear2\.", r"\1\2ffns.0.layers.1."),
    (r"encoder(\.layers\.\d+\.)self_attn\.", r"encoder\1attentions.0."),
    (r"decoder(\.layers\.\d+\.)self_attn\.", r"decoder\1attentions.0.attn."),
    (r"decoder(\.layers\.\d+\.)cross_attn\.", r"decoder\1attentions.1."),
    (r"\.norm([123])\.", lambda found: f".norms.{int(found[1]) - 1}."),
    (r"encoder\.level_embed\.weight", "level_embeds"),
    (r"^input_proj\.3\.", "neck.extra_convs.0."),
    (r"^input_proj\.", "neck.convs."),
    (r"^(neck\.\w+\.\d\.)0\.", r"\1conv."),
    (r"^(neck\.\w+\.\d\.)1\.", r"\1norm."),
    (r"proposals\.project", "enc_output"),
    (r"proposals\.norm", "enc_output_norm"),
    (r"transformer\.proposals\.heads\.(.*?)_embed", r"\1_embed.2"),
    (r"decoder\.query_head", "pos_trans"),
    (r"decoder\.query_norm", "pos_trans_norm"),
    (r"decoder\.reference_head", "reference_points"),
    (r"position_head", "ref_point_head"),
    (r"^heads\.(\d)\.(.*?)_embed", r"\2_embed.\1"),
    (r"^denoising\.label_embed", "label_enc"),
)


def detrex_weights(model, name):
    """The weights with detrex's names, whose DINO has no embedding of no label."""
    weights = {}
    for key, value in model.state_dict().items():
        if key.startswith("denoising."):
            value = value[:-1]
        for pattern, replacement in DETREX:
            key = re.sub(pattern, replacement, key)
        queries = "transformer.tgt_embed" if name == "dino" else "query_embedding"
        key = key.replace("transformer.decoder.query_embed", queries)
        if key.startswith("heads."):  # shared: a place for every layer
            weights[re.sub(r"heads\.(.*?)_embed", r"\1_embed.1", key)] = value
            key = re.sub(r"heads\.(.*?)_embed", r"\1_embed.0", key)
        weights[key] = value
    return weights


@pytest.mark.parametrize("name", CONFIGS)
def test_detrex_names(name, tmp_path):
    settings = {"HEADS_PER_LAYER": name != "plain"}  # also of DINO
    trained, model = build(name, seed=3, **settings), build(name, **settings)
    torch.save({"model": detrex_weights(trained, name)}, tmp_path / "detrex.pth")
    report = load_weights(model, str(tmp_path / "detrex.pth"))
    assert report.format.startswith("detrex")
    assert not report.random
    assert not report.unused
    assert_same_predictions(predict(model), predict(trained))


@pytest.mark.parametrize("name", ["plain", "refine", "two_stage"])
def test_transformers_gives_the_same_and_back(name, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    pytest.importorskip("timm", reason="timm is not installed")
    ours = build(name, seed=5)
    if name == "two_stage":  # theirs may choose padding, too, if that scores well
        proposals = ours.transformer.proposals
        proposals.project.bias.data = -0.1 * proposals.heads.class_embed.weight[0].detach()
    folder = tmp_path / "theirs"
    convert_checkpoint(save(ours, tmp_path / "ours.pth"), str(folder), "huggingface")
    theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(folder).eval()
    expected = predict_with_theirs(theirs, ours)
    assert_same_predictions(predict(ours), expected)

    theirs.save_pretrained(tmp_path / "again")
    again = build(name)
    report = load_weights(again, str(tmp_path / "again"))
    assert not report.random
    assert_same_predictions(predict(again), expected)
    in_memory = build(name)
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")
    load_weights(in_memory, str(tmp_path / "memory.pth"))
    assert_same_predictions(predict(in_memory), expected)


@pytest.mark.parametrize("name", ["two_stage", "dino"])
def test_class_rows_go_by_name_but_not_where_they_stand_for_no_class(name, tmp_path):
    trained = build(name, seed=3, num_classes=91)
    model = build(name, num_classes=80)
    load_weights(model, save(trained, tmp_path / "91.pth"))

    def head(owner, path):
        return owner.get_submodule(path).class_embed.weight

    of_layer = "heads.1" if name == "two_stage" else "heads"
    assert torch.equal(head(model, of_layer)[16], head(trained, of_layer)[18])  # dog
    cells = "transformer.proposals.heads"
    rows, given = head(model, cells), head(trained, cells)
    if name == "dino":
        assert torch.equal(rows[16], given[18])
        labels = model.denoising.label_embed.weight
        assert torch.equal(labels[16], trained.denoising.label_embed.weight[18])
    else:
        assert torch.equal(rows, given[:80])  # the first one stands for any object


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ("plain", "refine", "of Deformable DETR, but the model is Deformable DETR with refinement"),
        (
            "two_stage",
            "dino",
            "of two-stage Deformable DETR, but the model is DINO.*two_stage",
        ),
    ],
)
def test_weights_of_another_variant(given, wanted, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_weights(build(wanted), save(build(given), tmp_path / "other.pth"))


def test_dino_has_no_place_in_transformers(tmp_path):
    with pytest.raises(UserError, match="transformers has no DN-DETR and no DINO"):
        convert_checkpoint(
            save(build("dino"), tmp_path / "dino.pth"), str(tmp_path / "folder"), "huggingface"
        )
