"""Validation losses, early stopping and what iterations log, in a training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from d2detr.config import check_training_settings
from d2detr.engine import Trainer
from d2detr.errors import UserError


@pytest.fixture
def cfg(shapes_cfg):
    shapes_cfg.MODEL.DETR.DROPOUT = 0.1
    return shapes_cfg


def train(cfg, resume=False):
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def read_metrics(cfg):
    lines = Path(cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def test_validation_losses_are_logged_and_change_nothing(cfg):
    cfg.SOLVER.MAX_ITER = 4
    expected = train(cfg).model.state_dict()
    cfg.OUTPUT_DIR += "_validated"
    cfg.TEST.LOSS_PERIOD = 2
    trained = train(cfg).model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in expected.items())
    metrics = read_metrics(cfg)
    (dataset,) = cfg.DATASETS.TEST
    names = [name for name in metrics if name.startswith("loss_")]
    for name in (*names, "total_loss", "class_error", "cardinality_error"):
        assert metrics[f"{dataset}/{name}"] >= 0
    total = sum(metrics[f"{dataset}/{name}"] for name in names)
    assert metrics[f"{dataset}/total_loss"] == pytest.approx(total, rel=1e-5)


def test_gradient_norm_and_memory_are_logged(cfg):
    cfg.SOLVER.MAX_ITER = 2
    train(cfg)
    metrics = read_metrics(cfg)
    assert metrics["grad_norm"] > cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE  # as before clipping
    assert metrics["max_mem_mb"] > 10


def test_keeps_the_best_model_and_stops_when_nothing_gets_better(cfg, monkeypatch):
    results = iter([{"bbox": {"AP": ap}} for ap in (1.0, 3.0, 2.0, 2.5, 9.0)])
    monkeypatch.setattr(Trainer, "test", classmethod(lambda *_: next(results)))
    cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD, cfg.TEST.PATIENCE = 20, 1, 2
    assert train(cfg).iter == 3
    output = Path(cfg.OUTPUT_DIR)
    assert json.loads((output / "best.json").read_text())["iteration"] == 1
    assert (output / "model_best.pth").is_file()
    final = torch.load(output / "model_final.pth", weights_only=True)
    assert final["trainer"]["iteration"] == 3
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 4 and resumed.iter == 3


def test_patience_needs_evaluations(cfg):
    cfg.TEST.PATIENCE, cfg.TEST.EVAL_PERIOD = 2, 0
    with pytest.raises(UserError, match="TEST.PATIENCE is 2, but nothing is compared"):
        check_training_settings(cfg)
