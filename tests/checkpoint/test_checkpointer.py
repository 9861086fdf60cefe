import argparse

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.utils.logger import setup_logger
from torch import nn

from d2detr.checkpoint import load_weights, to_original
from d2detr.errors import UserError
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    predict,
    small_cfg,
    small_detr,
)


@pytest.fixture(scope="module")
def trained():
    return small_detr(seed=1, class_names=list("abcdefg"))


@pytest.fixture
def released(trained, tmp_path):
    path = tmp_path / "checkpoint.pth"
    extras = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-4), "epoch": 499}
    torch.save({"model": to_original(trained.state_dict()), **extras}, path)
    return str(path)


def test_released_checkpoint_with_optimizer_and_namespace(trained, released):
    model = small_detr()
    rest = DetectionCheckpointer(model).load(released)
    assert rest["epoch"] == 499
    assert_same_predictions(predict(model), predict(trained))


def test_default_predictor(trained, released):
    cfg = small_cfg()
    cfg.MODEL.WEIGHTS = released
    cfg.INPUT.MIN_SIZE_TEST = 64
    assert_same_predictions(predict(DefaultPredictor(cfg).model), predict(trained))


def test_own_checkpoint_of_other_classes_with_one_summary(trained, tmp_path, caplog):
    """fvcore would drop the class head, because it has the model's name and another shape."""
    setup_logger(name="d2detr").propagate = True
    DetectionCheckpointer(trained, str(tmp_path)).save("own", iteration=7)
    model = small_detr(num_classes=2, class_names=["g", "x"])
    rest = DetectionCheckpointer(model).load(str(tmp_path / "own.pth"))
    assert rest["iteration"] == 7
    rows = trained.heads.class_embed.weight
    assert torch.equal(model.heads.class_embed.weight[[0, 2]], rows[[6, 7]])
    # A set, because pytest captures a record once per logger that it had to attach itself to.
    assert len({x for x in caplog.records if "classes carried over: g" in x.message}) == 1


def test_checkpoint_of_distributed_training(trained, tmp_path):
    weights = {f"module.{key}": x for key, x in trained.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "ddp.pth")
    model = small_detr()
    DetectionCheckpointer(model).load(str(tmp_path / "ddp.pth"))
    assert_same_predictions(predict(model), predict(trained))


def test_detr_inside_another_model(trained, tmp_path):
    pipeline = nn.ModuleDict({"detr": small_detr()})
    weights = {f"detr.{key}": x for key, x in trained.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "pipeline.pth")
    DetectionCheckpointer(pipeline).load(str(tmp_path / "pipeline.pth"))
    assert_same_predictions(predict(pipeline["detr"]), predict(trained))


def test_other_models_load_as_before(tmp_path):
    model, trained = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({"model": trained.state_dict()}, tmp_path / "linear.pth")
    DetectionCheckpointer(model).load(str(tmp_path / "linear.pth"))
    assert torch.equal(model.weight, trained.weight)
    with pytest.raises(AssertionError, match="not found"):
        DetectionCheckpointer(model).load(str(tmp_path / "nowhere.pth"))


def test_untrusted_code_runs_only_where_the_checkpointer_allows_it(tmp_path, trained):
    class Sneaky:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    path = tmp_path / "sneaky.pth"
    torch.save({"model": trained.state_dict(), "x": Sneaky()}, path)
    for trusted in (False, True):
        checkpointer = DetectionCheckpointer(small_detr())
        checkpointer.trusts_weights = trusted
        if trusted:
            checkpointer.load(str(path))
        else:
            with pytest.raises(UserError, match="MODEL.WEIGHTS_TRUSTED"):
                checkpointer.load(str(path))
        assert (tmp_path / "marker").exists() == trusted


@pytest.mark.parametrize(
    "load", [load_weights, lambda model, path: DetectionCheckpointer(model).load(path)]
)
def test_names_are_matched_by_their_ends_where_the_path_says_so(trained, tmp_path, load):
    torch.save(trained.transformer.state_dict(), tmp_path / "transformer.pth")
    model = small_detr()
    load(model, f"{tmp_path}/transformer.pth?matching_heuristics=True&partial=True")
    assert_same_tensors(model.transformer.state_dict(), trained.transformer.state_dict())
    with pytest.raises(UserError, match="leave the whole backbone random"):
        load(model, f"{tmp_path}/transformer.pth?matching_heuristics=True")
    with pytest.raises(UserError, match="fit no parameter"):
        load(model, f"{tmp_path}/transformer.pth")
