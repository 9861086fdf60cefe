import argparse
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from d2detr.checkpoint import fetch_weights, metadata, read_checkpoint
from d2detr.errors import UserError

WEIGHTS = {"input_proj.weight": torch.arange(6.0).view(2, 3)}


class RunsCode:
    """Its pickle makes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def assert_holds_weights(path):
    assert torch.equal(read_checkpoint(str(path))["model"]["input_proj.weight"], *WEIGHTS.values())


@pytest.mark.parametrize("container", ["model", "state_dict", None])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_under_any_name(tmp_path, container, zipped):
    path = tmp_path / "weights.dat"
    content = {container: WEIGHTS, "args": argparse.Namespace(lr=1e-4)} if container else WEIGHTS
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_holds_weights(path)
    if container:
        assert read_checkpoint(str(path))["args"].lr == 1e-4


def test_safetensors_under_any_name(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(WEIGHTS, tmp_path / "weights.dat")
    assert_holds_weights(tmp_path / "weights.dat")


def test_folder_and_its_class_names(tmp_path):
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "cat", "1": "dog"}}')
    path = fetch_weights(str(tmp_path))
    assert_holds_weights(path)
    assert metadata.description(read_checkpoint(path)["model"]) == {"class_names": ["cat", "dog"]}


def test_placeholders_are_no_class_names(tmp_path):
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}')
    model = read_checkpoint(fetch_weights(str(tmp_path)))["model"]
    assert metadata.description(model) == {}


def test_shards(tmp_path):
    torch.save(WEIGHTS, tmp_path / "a.bin")
    torch.save({"x": torch.ones(1)}, tmp_path / "b.bin")
    index = '{"weight_map": {"input_proj.weight": "a.bin", "x": "b.bin"}}'
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    model = read_checkpoint(fetch_weights(str(tmp_path)))["model"]
    assert model.keys() == {"input_proj.weight", "x"}


def test_pickles_of_detectron2_and_of_caffe2(tmp_path):
    arrays = {key: x.numpy() for key, x in WEIGHTS.items()}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    assert_holds_weights(path)
    path.write_bytes(pickle.dumps({"blobs": {"w": np.ones(1), "w_momentum": np.ones(1)}}))
    checkpoint = read_checkpoint(str(path))
    assert checkpoint["model"].keys() == {"w"}
    assert checkpoint["matching_heuristics"]


@pytest.mark.parametrize("name", ["zip", "legacy", "pickle"])
def test_code_in_a_file_does_not_run_unless_trusted(tmp_path, name):
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    content = {"model": WEIGHTS if name != "pickle" else {"w": np.ones(1)}, "x": RunsCode(marker)}
    if name == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name == "zip")
    with pytest.raises(UserError, match=r"could run code .*mkdir.*MODEL.WEIGHTS_TRUSTED"):
        read_checkpoint(str(path))
    assert not marker.exists()
    read_checkpoint(str(path), trusted=True)
    assert marker.exists()


def test_archive_that_unpacks_to_far_more_than_its_size_is_not_unpacked(tmp_path):
    torch.save({"model": {"w": torch.zeros(100 << 18)}}, tmp_path / "zeros.pth")
    bomb = tmp_path / "bomb.pth"
    with (
        zipfile.ZipFile(tmp_path / "zeros.pth") as stored,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    with pytest.raises(UserError, match=r"bomb.pth was not read: .* would unpack to 104,8"):
        read_checkpoint(str(bomb), trusted=True)


def test_tensors_that_pretend_to_be_large_are_refused(tmp_path):
    path = tmp_path / "expanded.pth"
    torch.save({"w": torch.zeros(1).expand(10**9)}, path)
    with pytest.raises(UserError, match="claims tensors of 4,000,000,000 bytes"):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"weight_map": {"a":\n', "is not JSON, or was cut off: .* at line 2"),
        ("[]", "is no index of weights"),
        ('{"weight_map": ["a.bin"]}', "is no index of weights"),
        ('{"weight_map": {"w": 3}}', "is no index of weights"),
        ('{"weight_map": {"w": "pytorch_model.bin.index.json"}}', "is no index of weights"),
        ('{"weight_map": {"w": "b.bin"}}', "index.json .*/b.bin does not exist"),
    ],
)
def test_broken_index_of_shards(tmp_path, content, message):
    (tmp_path / "pytorch_model.bin.index.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(fetch_weights(str(tmp_path)))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
        (b"hello", "it is of no known kind, and starts with b'hello'"),
        (b"PK\x03\x04 cut off", "is damaged, or was not copied completely"),
        (b"\x80\x02cut off", "is damaged"),
        (pickle.dumps([1, 2]), "holds a list, not a state dict"),
        (pickle.dumps({"model": {"epoch": 3}}), "holds no tensors, but model"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_checkpoint(fetch_weights(str(path)))


def test_damaged_safetensors(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes((100).to_bytes(8, "little") + b"{" + b" " * 20)
    with pytest.raises(UserError, match="is damaged, or was not copied completely"):
        read_checkpoint(str(path))


def test_pickled_model_of_another_project_is_named(tmp_path):
    path = tmp_path / "yolo.pt"
    module = b"cultralytics.nn.tasks\nDetectionModel\n"
    path.write_bytes(b"\x80\x02" + module + b")R.")
    with pytest.raises(UserError, match="a checkpoint of YOLO .*not of DETR"):
        read_checkpoint(str(path))
