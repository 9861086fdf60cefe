import pytest
import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from d2detr.checkpoint import load_weights
from d2detr.errors import UserError
from tests.checkpoint.helpers import small_detr


@pytest.fixture(scope="module")
def trained():
    return small_detr(seed=1)


def test_weights_are_fetched_and_read_once(trained, tmp_path, monkeypatch):
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    calls = []

    def count(function):
        def counted(*args, **kwargs):
            calls.append(function.__name__)
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(PathManager, "get_local_path", count(PathManager.get_local_path))
    monkeypatch.setattr(torch, "load", count(torch.load))
    report = load_weights(small_detr(), str(tmp_path / "own.pth"))
    assert sorted(calls) == ["get_local_path", "load"]
    assert len(report.loaded) == report.total
    assert not report.random


def test_no_weights_leave_everything_random():
    report = load_weights(nn.DataParallel(small_detr()), "")
    assert len(report.random) == report.total


def test_other_models_take_their_own_names(tmp_path):
    model, trained = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({"model": {"weight": trained.weight.data, "bias": torch.zeros(3)}}, tmp_path / "a")
    report = load_weights(model, str(tmp_path / "a"))
    assert torch.equal(model.weight, trained.weight)
    assert report.loaded == ["weight"]
    assert report.random == ["bias"]


def test_ambiguous_ends_of_names(trained, tmp_path):
    torch.save({"norm1.weight": torch.ones(64)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth.* cannot be matched by the ends of names"):
        load_weights(trained, f"{tmp_path}/a.pth?matching_heuristics=True")


def test_error_names_the_key_and_the_file(tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="FROZEN .*a.pth: the weights fit no parameter"):
        load_weights(small_detr(), str(tmp_path / "a.pth"), key="FROZEN")
