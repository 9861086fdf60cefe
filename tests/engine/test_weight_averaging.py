from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import TrainerBase

from d2detr import Predictor
from d2detr.engine import Trainer, evaluate
from d2detr.engine.weight_averaging import WeightAveraging
from d2detr.errors import UserError


@pytest.fixture
def cfg(shapes_cfg):
    shapes_cfg.SOLVER.EMA_DECAY = 0.5
    shapes_cfg.TEST.EVAL_PERIOD = 4
    shapes_cfg.MODEL.DETR.DROPOUT = 0.1
    return shapes_cfg


def train(cfg, resume=False):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def saved_weights(cfg, name="model_final.pth"):
    return torch.load(Path(cfg.OUTPUT_DIR, name), weights_only=True)["model"]


def test_average_is_evaluated_saved_and_used(cfg):
    trainer = train(cfg)
    average, trained = trainer.averaging.averaged.state_dict(), trainer.model.state_dict()
    torch.testing.assert_close(saved_weights(cfg), average, rtol=0, atol=0)
    name = next(name for name, _ in trainer.model.named_parameters())
    assert not torch.equal(average[name], trained[name])
    evaluated = evaluate(cfg, resume=True)["bbox"]["AP"]
    assert evaluated == trainer._last_eval_results["bbox"]["AP"] > 0
    loaded = Predictor(cfg, f"{cfg.OUTPUT_DIR}/model_final.pth").model.state_dict()
    torch.testing.assert_close(dict(loaded), dict(average), rtol=0, atol=0)


def test_resuming_continues_the_average(cfg, tmp_path):
    unbroken = train(cfg)
    cfg.OUTPUT_DIR = str(tmp_path / "broken")
    cfg.SOLVER.MAX_ITER = 6
    train(cfg)
    cfg.SOLVER.MAX_ITER = 8
    resumed = train(cfg, resume=True)
    for model in ("model", "judged_model"):
        expected, actual = (getattr(x, model).state_dict() for x in (unbroken, resumed))
        torch.testing.assert_close(dict(actual), dict(expected), rtol=0, atol=0)


def test_any_trainer_can_average(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    averaging = WeightAveraging(model, decay=0.25)

    class Doubling(TrainerBase):
        def run_step(self):
            model.weight.data.mul_(2)

    trainer = Doubling()
    trainer.register_hooks([averaging])
    trainer.train(0, 3)
    # The first weights are 2, then a fifth and a quarter of the average are kept: 2/11 and 0.25.
    expected = 0.75 * 8 + 0.25 * (2 / 11 * 2 + 9 / 11 * 4)
    assert averaging.averaged.weight.item() == pytest.approx(expected)
    DetectionCheckpointer(averaging.averaged, str(tmp_path)).save("average")


def test_buffers_are_those_of_the_model():
    model = torch.nn.BatchNorm1d(2)
    averaging = WeightAveraging(model, decay=0.5)
    model.running_mean = torch.tensor([3.0, 4.0])
    model.num_batches_tracked.add_(1)
    averaging.after_step()
    assert averaging.averaged.running_mean.tolist() == [3.0, 4.0]
    assert averaging.averaged.num_batches_tracked == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_unusable_decay(cfg, decay):
    cfg.SOLVER.EMA_DECAY = decay
    with pytest.raises(UserError, match="EMA_DECAY is"):
        Trainer(cfg)
