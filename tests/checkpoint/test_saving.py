import logging

import pytest
import torch
from torch import nn

from d2detr.checkpoint.saving import RunCheckpointer
from d2detr.errors import UserError


@pytest.fixture
def checkpointer(tmp_path):
    """A checkpointer that has saved iterations 4 and 9, and the final model."""
    checkpointer = RunCheckpointer(nn.Linear(100, 100), str(tmp_path))
    for iteration, name in enumerate(("model_0000004", "model_0000009", "model_final")):
        nn.init.constant_(checkpointer.model.weight, iteration)
        checkpointer.save(name, iteration=iteration)
    return checkpointer


def test_full_disk_leaves_the_earlier_checkpoints(checkpointer, tmp_path, full_disk):
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}
    for name in ("model_0000014", "model_final"):
        with full_disk(), pytest.raises(UserError, match=f"{name}.pth cannot be written"):
            checkpointer.save(name, iteration=14)
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: None, "model_final.pth"),
        (lambda folder: (folder / "model_final.pth").write_bytes(b""), "model_0000009.pth"),
        (lambda folder: truncate(folder / "model_final.pth"), "model_0000009.pth"),
        (lambda folder: change(folder / "model_final.pth"), "model_0000009.pth"),
        (lambda folder: (folder / "last_checkpoint").write_text(""), "model_final.pth"),
        (lambda folder: (folder / "last_checkpoint").unlink(), "model_final.pth"),
        (lambda folder: (folder / "last_checkpoint").write_text("gone.pth"), "model_final.pth"),
    ],
    ids=["sound", "empty", "truncated", "changed", "no-name", "no-last", "gone"],
)
def test_goes_on_from_the_newest_that_can_be_read(checkpointer, tmp_path, caplog, damage, found):
    damage(tmp_path)
    logging.getLogger("d2detr.checkpoint.saving").addHandler(caplog.handler)
    loaded = checkpointer.resume_or_load("", resume=True)
    logging.getLogger("d2detr.checkpoint.saving").removeHandler(caplog.handler)
    weight = torch.load(tmp_path / found, weights_only=True)["model"]["weight"]
    assert torch.equal(checkpointer.model.weight, weight)
    assert loaded["iteration"] == weight[0, 0]
    is_last = (tmp_path / "last_checkpoint").is_file() and found in (
        tmp_path / "last_checkpoint"
    ).read_text()
    assert (f"taking {tmp_path / found}" in caplog.text) == (not is_last)


def test_nothing_that_can_be_read(checkpointer, tmp_path):
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match=r"No checkpoint in .* can be read: .*model_0000004.pth"):
        checkpointer.resume_or_load("", resume=True)


def test_other_processes_do_as_the_main_one_without_reading(checkpointer, tmp_path, monkeypatch):
    for file in tmp_path.glob("*.pth"):
        file.write_bytes(b"")
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    for answer in (("model_final.pth", None), ("", "none can be read")):
        monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda own, main=answer: [main])
        if answer[0]:
            assert checkpointer.find_checkpoint() == "model_final.pth"
        else:
            with pytest.raises(UserError, match="none can be read"):
                checkpointer.find_checkpoint()


def test_starts_anew_without_checkpoints(tmp_path):
    checkpointer = RunCheckpointer(nn.Linear(1, 1), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    assert checkpointer.resume_or_load("", resume=True) == {}


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def change(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
