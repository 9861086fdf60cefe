from pathlib import Path

import pytest

from d2detr import report
from d2detr.engine import Trainer, evaluate
from d2detr.errors import UserError


@pytest.fixture
def cfg(shapes_cfg):
    shapes_cfg.SOLVER.MAX_ITER = 1
    shapes_cfg.TEST.REPORT = True
    return shapes_cfg


def train(cfg):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def test_training_and_evaluation_write_the_report(cfg):
    train(cfg)
    path = Path(cfg.OUTPUT_DIR, "report.html")
    assert "Total loss" in path.read_text() and "Kinds of mistakes" in path.read_text()
    path.unlink()
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR, "model_final.pth"))
    evaluate(cfg)
    assert path.is_file()


@pytest.mark.parametrize("error", [UserError("needs plotly"), ZeroDivisionError("needs plotly")])
def test_training_ends_well_without_a_report(cfg, monkeypatch, caplog, error):
    def fail(paths, dataset_name):
        raise error

    monkeypatch.setattr(report, "write_report", fail)
    train(cfg)
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").is_file()
    assert "needs plotly" in caplog.text
