import logging
import sys

import pytest
from detectron2.utils.events import EventStorage

from d2detr.engine.trackers import Tracker, build_trackers
from d2detr.errors import UserError


def write(tracker, storage, **values):
    storage.put_scalars(**values, smoothing_hint=False)
    tracker.write()


def test_every_value_is_written_once_with_its_iteration():
    written = []
    tracker = Tracker("service", lambda *entry: written.append(entry), lambda: None)
    with EventStorage(10) as storage:
        write(tracker, storage, loss=1.0)
        storage.step()
        storage.put_scalar("val/loss", 3.0, smoothing_hint=False)
        storage.step()
        write(tracker, storage, loss=2.0)
        tracker.write()
    assert written == [({"loss": 1.0}, 10), ({"val/loss": 3.0}, 11), ({"loss": 2.0}, 12)]


def test_service_that_fails_ends_its_tracking_alone(caplog):
    calls = []

    def fail(*_):
        calls.append(1)
        raise ConnectionError("no route to host")

    tracker = Tracker("service", fail, fail)
    with EventStorage() as storage, caplog.at_level(logging.WARNING):
        write(tracker, storage, loss=1.0)
        storage.step()
        write(tracker, storage, loss=2.0)
        tracker.close()
    assert calls == [1]
    assert "Nothing more is written to service, which failed: no route to host" in caplog.text


def test_unknown_service(tiny_cfg):
    tiny_cfg.TRACKERS = ("wandbd",)
    with pytest.raises(UserError, match="TRACKERS has 'wandbd'; choose from wandb, mlflow"):
        build_trackers(tiny_cfg)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_service_that_is_not_installed(tiny_cfg, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    tiny_cfg.TRACKERS = (name,)
    with pytest.raises(UserError, match=rf"needs {name}: pip install 'd2detr\[{name}\]'"):
        build_trackers(tiny_cfg)


def test_wandb_offline(tiny_cfg, monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tiny_cfg.OUTPUT_DIR = str(tmp_path)
    tiny_cfg.TRACKERS = ("wandb",)
    (tracker,) = build_trackers(tiny_cfg)
    with EventStorage(10) as storage:
        write(tracker, storage, total_loss=1.25)
        tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert b"total_loss" in file.read_bytes()


def test_mlflow_in_files(tiny_cfg, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "my_run")
    tiny_cfg.TRACKERS = ("mlflow",)
    (tracker,) = build_trackers(tiny_cfg)
    with EventStorage(10) as storage:
        write(tracker, storage, **{"auto:/my/../data#1:val/loss": 1.25})
        tracker.close()
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "my_run" and run.info.status == "FINISHED"
    assert run.data.metrics == {"auto:/data_1:val/loss": 1.25}
    assert run.data.params["MODEL.DETR.HIDDEN_DIM"] == "32"
