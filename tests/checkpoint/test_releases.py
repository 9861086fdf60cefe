import hashlib
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from d2detr.checkpoint import fetch_weights, read_checkpoint, releases, to_original
from d2detr.errors import UserError
from tests.checkpoint.helpers import assert_same_predictions, predict, small_detr


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server in the place of the official one; yields its folder and the paths it was asked."""
    folder, asked = tmp_path / "server", []
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    http = HTTPServer(("localhost", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(releases, "RELEASES_URL", f"http://localhost:{http.server_port}")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    yield folder, asked
    http.shutdown()
    http.server_close()
    thread.join()


def publish(folder, monkeypatch, content):
    path = folder / "weights"
    torch.save(content, path)
    name = f"detr-r50-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(folder / name)
    monkeypatch.setitem(releases.RELEASES, "detr_r50", name)
    return name


def test_release_is_downloaded_once_and_verified(server, monkeypatch, tmp_path):
    folder, asked = server
    name = publish(folder, monkeypatch, {"model": {"x": torch.ones(2)}})
    for _ in range(2):
        path = fetch_weights("detr://detr_r50")
        assert torch.equal(read_checkpoint(path)["model"]["x"], torch.ones(2))
    assert asked == [f"/{name}"]
    assert (tmp_path / "cache") in Path(path).parents
    with PathManager.open("detr://detr_r50", "rb") as file:
        assert file.read() == (folder / name).read_bytes()


def test_checkpointer_takes_the_name(server, monkeypatch):
    trained, model = small_detr(seed=1), small_detr()
    publish(server[0], monkeypatch, {"model": to_original(trained.state_dict())})
    DetectionCheckpointer(model).load("detr://detr_r50")
    assert_same_predictions(predict(model), predict(trained))


def test_another_file_than_the_release_is_refused_and_not_kept(server, tmp_path):
    folder, _ = server
    (folder / releases.RELEASES["detr_r50"]).write_bytes(b"<html>log in</html>")
    with pytest.raises(UserError, match="is not the released file.*not e632da11.*proxy"):
        fetch_weights("detr://detr_r50")
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_without_network_there_is_one_message(monkeypatch, tmp_path):
    monkeypatch.setattr(releases, "RELEASES_URL", "http://localhost:9")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"detr://detr_r101 cannot be downloaded from .*/detr-r101-2c7b67e5.pth"
    ):
        fetch_weights("detr://detr_r101")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="no weights detr://detr_r18; choose from detr://detr_r50,"):
        fetch_weights("detr://detr_r18")


def test_official_addresses():
    assert releases.RELEASES_URL == "https://dl.fbaipublicfiles.com/detr"
    assert releases.RELEASES["detr_panoptic_r50_dc5"] == "detr-r50-dc5-panoptic-da08f1b1.pth"
    assert len(releases.RELEASES) == 7
