import argparse
import json
import runpy
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2detr import model_zoo
from d2detr.checkpoint import RELEASES, metadata, read_checkpoint, to_original
from d2detr.checkpoint.convert import convert_checkpoint
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    predict,
    small_detr,
    wrapper_state_dict,
)

pytest.importorskip("safetensors", reason="safetensors is not installed")


@pytest.fixture(scope="module")
def trained():
    return small_detr(seed=1, class_names=["ant", "bee", "cat", "dog", "elk", "fox", "gnu"])


@pytest.fixture
def original(trained, tmp_path):
    path = tmp_path / "original.pth"
    args = argparse.Namespace(nheads=8, dilation=True)
    torch.save({"model": to_original(trained.state_dict()), "args": args}, path)
    return str(path)


@pytest.fixture
def own(trained, tmp_path):
    DetectionCheckpointer(trained, str(tmp_path)).save("own")
    return str(tmp_path / "own.pth")


def read(path):
    return read_checkpoint(str(path))["model"]


def test_round_trip_over_every_format(original, tmp_path):
    steps = ["d2detr", "huggingface", "d2detr", "original", "huggingface", "original"]
    source = original
    for i, to in enumerate(steps):
        output = tmp_path / f"{i}-{to}"
        convert_checkpoint(source, str(output), to)
        source = str(output)
    assert_same_tensors(read(source), read(original))


def test_converted_weights_give_the_same_detections_and_keep_their_class_names(
    trained, own, tmp_path
):
    convert_checkpoint(own, str(tmp_path / "folder"), "huggingface")
    convert_checkpoint(str(tmp_path / "folder"), str(tmp_path / "back.pth"), "d2detr")
    model = small_detr()
    DetectionCheckpointer(model).load(str(tmp_path / "back.pth"))
    assert_same_predictions(predict(model), predict(trained))
    model = small_detr(num_classes=1, class_names=["fox"])
    DetectionCheckpointer(model).load(str(tmp_path / "back.pth"))
    assert torch.equal(model.heads.class_embed.weight, trained.heads.class_embed.weight[[5, 7]])


def test_config_tells_the_architecture(original, tmp_path):
    convert_checkpoint(original, str(tmp_path / "folder"), "huggingface")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["architectures"] == ["DetrForObjectDetection"]
    assert config["backbone"] == "resnet18"
    assert config["dilation"]  # as the arguments in the checkpoint say
    assert config["encoder_layers"] == config["decoder_layers"] == 2
    assert (config["d_model"], config["encoder_ffn_dim"], config["num_queries"]) == (64, 96, 10)
    assert len(config["id2label"]) == 7
    assert config["position_embedding_type"] == "sine"


def test_command_line(own, tmp_path, monkeypatch, capsys):
    tool = str(Path(__file__).parents[2] / "tools" / "convert_weights.py")
    arguments = ["--input", own, "--output", str(tmp_path / "out.pth"), "--to", "original"]
    monkeypatch.setattr("sys.argv", [tool, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(tool, run_name="__main__")
    assert not ended.value.code
    assert_same_tensors(read(tmp_path / "out.pth"), to_original(read(own)))
    with pytest.raises(SystemExit, match="error: .*exists"):
        runpy.run_path(tool, run_name="__main__")


def test_what_cannot_be_converted_says_why(own, tmp_path):
    backbone = tmp_path / "backbone.pth"
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, backbone)
    with pytest.raises(UserError, match="torchvision or timm ResNet, not a whole DETR"):
        convert_checkpoint(str(backbone), str(tmp_path / "x"), "original")
    torch.save({"roi_heads.mask_head.x": torch.zeros(1)}, backbone)
    with pytest.raises(UserError, match="Mask R-CNN, not a whole DETR"):
        convert_checkpoint(str(backbone), str(tmp_path / "x"), "original")
    with pytest.raises(UserError, match="exists; it is not overwritten"):
        convert_checkpoint(own, own, "original")
    pre_norm = tmp_path / "pre_norm.pth"
    weights = {**read(own), "transformer.encoder.norm.weight": torch.ones(64)}
    torch.save(weights, pre_norm)
    with pytest.raises(UserError, match="no pre-norm layers"):
        convert_checkpoint(str(pre_norm), str(tmp_path / "x"), "huggingface", dilation=False)
    assert not (tmp_path / "x").exists()


def is_dilated(folder):
    return json.loads((folder / "config.json").read_text())["dilation"]


def test_where_nothing_tells_whether_it_is_dc5_it_must_be_said(trained, tmp_path):
    source = tmp_path / "no_args.pth"
    torch.save({"model": to_original(dict(trained.state_dict()))}, source)
    convert = partial(convert_checkpoint, str(source), to="huggingface")
    with pytest.raises(UserError, match="--dc5 or --no-dc5, or --config-file"):
        convert(str(tmp_path / "x"))
    for dilation in (False, True):
        convert(str(tmp_path / f"given-{dilation}"), dilation=dilation)
        assert is_dilated(tmp_path / f"given-{dilation}") == dilation
    convert(str(tmp_path / "config"), config_file=model_zoo.get_config_file("detr_r50_dc5.yaml"))
    assert is_dilated(tmp_path / "config")
    for release in ("detr_r50_dc5", "detr_r101"):
        source.rename(tmp_path / RELEASES[release])
        source = tmp_path / RELEASES[release]
        convert_checkpoint(str(source), str(tmp_path / release), "huggingface")
        assert is_dilated(tmp_path / release) == ("dc5" in release)


def test_what_other_backbones_cannot_express_is_refused(trained, tmp_path):
    source = tmp_path / "wrapper.pth"
    torch.save({"model": wrapper_state_dict(trained, "detr.")}, source)
    for to in ("huggingface", "original"):
        with pytest.raises(UserError, match="dilates the first block"):
            convert_checkpoint(str(source), str(tmp_path / "x"), to, dilation=True)
    convert_checkpoint(str(source), str(tmp_path / "own.pth"), "d2detr")
    facts = metadata.description(read(tmp_path / "own.pth"))
    assert facts["dilates_first_block"]
