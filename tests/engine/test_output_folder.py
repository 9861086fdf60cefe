import pytest

from d2detr.engine.output_folder import (
    claim_output,
    holds_run,
    remove_replaced,
    restore_replaced,
    set_run_aside,
)
from d2detr.errors import UserError


@pytest.fixture
def old_run(tmp_path):
    (tmp_path / "inference").mkdir()
    # The last two are no part of the run.
    names = ("model_final.pth", "metrics.json", "inference/old.json", "notes.txt", "model_coco.pth")
    for name in names:
        (tmp_path / name).write_text("old")
    return tmp_path


def content(folder):
    return {str(x.relative_to(folder)): x.read_text() for x in folder.rglob("*") if x.is_file()}


def test_what_fails_to_replace_a_run_gives_it_back(old_run):
    before = content(old_run)
    claim_output(old_run, overwrite=True)
    assert not holds_run(old_run)
    (old_run / "metrics.json").write_text("new")
    (old_run / "log.txt").write_text("new")
    restore_replaced(old_run)
    assert content(old_run) == before


def test_a_start_that_was_killed_is_made_good_by_the_next(old_run):
    before = content(old_run)
    claim_output(old_run, overwrite=True)
    (old_run / "config.yaml").write_text("new")
    with pytest.raises(UserError, match="holds another run"):
        claim_output(old_run)
    assert content(old_run) == before


def test_only_the_run_is_replaced(old_run):
    claim_output(old_run, overwrite=True)
    (old_run / "metrics.json").write_text("new")
    remove_replaced(old_run)
    restore_replaced(old_run)
    assert content(old_run) == {
        "metrics.json": "new",
        "notes.txt": "old",
        "model_coco.pth": "old",
    }


def test_a_start_that_failed_is_no_run(tmp_path):
    for name in ("metrics.json", "config.yaml", "log.txt"):
        (tmp_path / name).write_text("" if name == "metrics.json" else "x")
    claim_output(tmp_path)


def test_runs_set_aside_are_numbered(old_run):
    assert set_run_aside(old_run) == old_run / "previous-1"
    assert content(old_run / "previous-1").keys() == {
        "model_final.pth",
        "metrics.json",
        "inference/old.json",
    }
    assert set_run_aside(old_run) is None  # there is none any more
    (old_run / "model_0000001.pth").write_text("new")
    assert set_run_aside(old_run) == old_run / "previous-2"
