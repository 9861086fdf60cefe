"""``hf://`` by the cache of huggingface_hub, without network."""

import sys

import pytest
import torch

from d2detr.checkpoint import fetch_weights, load_weights
from d2detr.errors import UserError
from tests.checkpoint.helpers import assert_same_predictions, predict, small_detr

REVISIONS = {"main": "a" * 40, "v2": "b" * 40}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An offline cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def put_into_cache(hub, weights, branch):
    folder = hub / "models--org--detr"
    snapshot = folder / "snapshots" / REVISIONS[branch]
    snapshot.mkdir(parents=True)
    torch.save(weights, snapshot / "pytorch_model.bin")
    (snapshot / "config.json").write_text("{}")
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / branch).write_text(REVISIONS[branch])


def test_weights_of_the_cache_and_of_a_revision(hub):
    models = {branch: small_detr(seed=i) for i, branch in enumerate(REVISIONS)}
    for branch, model in models.items():
        put_into_cache(hub, model.state_dict(), branch)
    for path, branch in (("hf://org/detr", "main"), ("hf://org/detr@v2", "v2")):
        model = small_detr()
        load_weights(model, path)
        assert_same_predictions(predict(model), predict(models[branch]))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("hf://org/other", "hf://org/other is not in the hub's cache.*without network"),
        ("hf://detr", "names no model; write hf://ORG/NAME"),
    ],
)
def test_what_cannot_be_had(hub, path, message):
    with pytest.raises(UserError, match=message):
        fetch_weights(path)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "There is no model org/detr on the hub"),
        ("RevisionNotFoundError", "org/detr on the hub has no revision 'v9'"),
    ],
)
def test_names_that_do_not_exist(hub, monkeypatch, error, message):
    import huggingface_hub

    kind = getattr(pytest.importorskip("huggingface_hub.errors"), error)

    def fail(*args, **kwargs):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=message):
        fetch_weights("hf://org/detr@v9")


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'd2detr\[hub\]'"):
        fetch_weights("hf://org/detr")
