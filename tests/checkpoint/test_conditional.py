"""Weights of Conditional, DAB- and DN-DETR: every format gives the same predictions."""

import re

import pytest
import torch

from d2detr.checkpoint import load_weights
from d2detr.checkpoint.conditional import from_conditional, to_conditional
from d2detr.checkpoint.convert import convert_checkpoint
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    build_member,
    predict,
    save,
)
from tests.checkpoint.test_huggingface import predict_with_theirs

CONFIGS = {"conditional": "conditional_detr_r50.yaml", "dab": "dab_detr_r50.yaml"}


def build(name, seed=None, **settings):
    return build_member(CONFIGS.get(name, "dn_detr_r50.yaml"), seed, **settings)


@pytest.mark.parametrize("name", ["conditional", "dab", "dn"])
def test_original_names_and_back(name, tmp_path):
    trained, model = build(name, seed=3), build(name)
    original = to_conditional(trained.state_dict())
    assert_same_tensors(dict(from_conditional(original)), dict(trained.state_dict()))
    path = tmp_path / "original.pth"
    torch.save({"model": original}, path)
    report = load_weights(model, str(path))
    assert not report.random
    assert not report.unused
    assert_same_predictions(predict(model), predict(trained))


DETREX = (
    (r"(encoder|decoder)(\.layers\.\d+\.)linear1\.", r"\1\2ffns.0.layers.0.0."),
    (r"(encoder|decoder)(\.layers\.\d+\.)linear2\.", r"\1\2ffns.0.layers.1."),
    (r"(encoder|decoder)(\.layers\.\d+\.)activation\.0\.", r"\1\2ffns.0.layers.0.1."),
    (r"encoder(\.layers\.\d+\.)self_attn\.", r"encoder\1attentions.0.attn."),
    (r"decoder(\.layers\.\d+\.)self_attn\.", r"decoder\1attentions.0."),
    (r"decoder(\.layers\.\d+\.)cross_attn\.", r"decoder\1attentions.1."),
    (r"\.norm([123])\.", lambda found: f".norms.{int(found[1]) - 1}."),
    (
        r"\.(q|k)_(content|position|sine)\.",
        lambda found: f".{LONG[found[1]]}_{SHORT[found[2]]}_proj.",
    ),
    (r"\.value\.", ".value_proj."),
    (r"decoder\.norm\.", "decoder.post_norm_layer."),
    (r"encoder\.position_scale", "encoder.query_scale"),
    (r"content_scale", "query_scale"),
    (r"reference_head|position_head", "ref_point_head"),
    (r"size_head", "ref_anchor_head"),
    (r"^heads\.", ""),
    (r"^denoising\.label_embed", "denoising_generator.label_encoder"),
)
LONG = {"q": "query", "k": "key"}
SHORT = {"content": "content", "position": "pos", "sine": "pos_sine"}


def detrex_key(key, name):
    for pattern, replacement in DETREX:
        key = re.sub(pattern, replacement, key)
    query = "query_embed" if name == "conditional" else "anchor_box_embed"
    return key.replace("transformer.decoder.query_embed", query)


@pytest.mark.parametrize("name", ["conditional", "dab", "dn"])
def test_detrex_names(name, tmp_path):
    trained, model = build(name, seed=3), build(name)
    path = tmp_path / "detrex.pth"
    weights = {detrex_key(key, name): value for key, value in trained.state_dict().items()}
    torch.save({"model": weights}, path)
    report = load_weights(model, str(path))
    assert report.format.startswith("detrex")
    assert not report.random
    assert_same_predictions(predict(model), predict(trained))


THEIRS = {"conditional": "ConditionalDetr", "dab": "DabDetr"}


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_gives_the_same_and_back(name, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    pytest.importorskip("timm", reason="timm is not installed")
    ours = build(name, seed=5)
    save(ours, tmp_path / "ours.pth")
    folder = tmp_path / "theirs"
    convert_checkpoint(str(tmp_path / "ours.pth"), str(folder), "huggingface")
    kind = getattr(transformers, f"{THEIRS[name]}ForObjectDetection")
    theirs = kind.from_pretrained(folder).eval()
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


def test_class_rows_go_by_name_without_no_object(tmp_path):
    trained, model = build("dn", seed=3, num_classes=91), build("dn", num_classes=80)
    report = load_weights(model, save(trained, tmp_path / "91.pth"))
    assert len(report.carried_classes) == 80
    rows, given = model.heads.class_embed.weight, trained.heads.class_embed.weight
    assert torch.equal(rows[16], given[18])  # dog
    assert torch.equal(rows[-1], given[90])  # toothbrush
    labels = model.denoising.label_embed.weight
    assert torch.equal(labels[16], trained.denoising.label_embed.weight[18])
    assert torch.equal(labels[-1], trained.denoising.label_embed.weight[-1])


@pytest.mark.parametrize(
    ("given", "wanted", "message"),
    [
        ("conditional", "dab", "of Conditional DETR, but the model is DAB-DETR.*conditional_detr"),
        ("dn", "dab", "of DN-DETR, but the model is DAB-DETR.*dn_detr_r50.yaml"),
    ],
)
def test_weights_of_another_variant(given, wanted, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load_weights(build(wanted), save(build(given), tmp_path / "other.pth"))


def test_weights_of_another_classification(tmp_path):
    path = save(build("conditional", CLASSIFICATION="softmax"), tmp_path / "softmax.pth")
    with pytest.raises(UserError, match="CLASSIFICATION 'softmax', but the model has 'focal'"):
        load_weights(build("conditional"), path)


def test_a_row_for_no_object_where_none_is(tmp_path):
    weights = dict(build("conditional").state_dict())  # without metadata
    head = weights["heads.class_embed.weight"]
    weights["heads.class_embed.weight"] = torch.cat((head, head[:1]))
    torch.save(weights, tmp_path / "more.pth")
    with pytest.raises(UserError, match="8 rows, one for no-object.*model has 7 classes"):
        load_weights(build("conditional"), str(tmp_path / "more.pth"))


def test_denoising_has_no_place_in_transformers(tmp_path):
    path = save(build("dn"), tmp_path / "dn.pth")
    with pytest.raises(UserError, match="transformers has no DN-DETR"):
        convert_checkpoint(path, str(tmp_path / "folder"), "huggingface")
