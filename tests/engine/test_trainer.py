import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from d2detr.engine import Trainer, evaluate
from d2detr.engine.run_log import set_up_logging
from d2detr.errors import UserError


@pytest.fixture
def cfg(shapes_cfg):
    return shapes_cfg


class RecordingTrainer(Trainer):
    """Remembers what each iteration saw and can stop as if killed."""

    stop_at = None

    def run_step(self):
        if self.iter == self.stop_at:
            raise KeyboardInterrupt
        super().run_step()
        self.seen = [*getattr(self, "seen", []), self.storage.latest()["total_loss"][0]]
        self.rates = [
            *getattr(self, "rates", []),
            [group["lr"] for group in self.optimizer.param_groups],
        ]


def train(cfg, stop_at=None, resume=False):
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = RecordingTrainer(cfg)
    trainer.stop_at = stop_at
    trainer.resume_or_load(resume=resume)
    if stop_at is None:
        trainer.train()
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    return trainer


def read_metrics(cfg):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def test_trains_evaluates_and_logs(cfg):
    cfg.TEST.EVAL_PERIOD = 4
    trainer = train(cfg)
    latest = {name: value for name, (value, _) in trainer.storage.latest().items()}
    losses = sum(value for name, value in latest.items() if name.startswith("loss_"))
    assert losses == pytest.approx(latest["total_loss"], rel=1e-5)
    metrics = read_metrics(cfg)
    for key in ("class_error", "cardinality_error", "lr", "time", "data_time", "bbox/AP"):
        assert key in metrics
    output = Path(cfg.OUTPUT_DIR)
    assert (output / "model_final.pth").is_file()
    assert (output / "inference" / "coco_instances_results.json").is_file()
    assert list(output.glob("events.out.tfevents.*"))
    assert trainer._last_eval_results["bbox"]["AP"] >= 0


@pytest.mark.parametrize(
    ("workers", "resuming_workers", "grouping"), [(0, 0, False), (2, 3, False), (1, 2, True)]
)
def test_resuming_continues_everything(cfg, workers, resuming_workers, grouping):
    """An interrupted training ends like a whole one, to the last bit, whatever the workers."""
    cfg.INPUT.MIN_SIZE_TRAIN = (48, 64)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.SIZE = (32, 64)
    cfg.MODEL.DETR.DROPOUT = 0.1
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.TEST.EVAL_PERIOD = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    whole = train(cfg)

    cfg.OUTPUT_DIR += "_interrupted"
    cfg.TEST.EVAL_PERIOD = 0
    train(cfg, stop_at=3)
    cfg.SEED = 7  # all random numbers come from the checkpoint's
    cfg.DATALOADER.NUM_WORKERS = resuming_workers
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 3
    assert resumed.seen == whole.seen[3:]
    assert resumed.rates == whole.rates[3:]
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], parameter)


def test_final_model_that_cannot_be_read_is_written_again(cfg):
    cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD = 0, 4
    train(cfg)
    final = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    expected = torch.load(final, weights_only=True)
    final.write_bytes(b"")
    assert train(cfg, resume=True).start_iter == 8
    written = torch.load(final, weights_only=True)
    assert written.keys() == expected.keys() and written["trainer"]["iteration"] == 7
    for name, value in expected["model"].items():
        assert torch.equal(written["model"][name], value)
    assert last_evaluated(cfg) == 8


def last_evaluated(cfg):
    lines = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()
    return max(x["iteration"] for x in map(json.loads, lines) if "bbox/AP" in x)


def test_full_disk_ends_training_without_a_traceback(cfg, full_disk, caplog):
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = 2, 0
    train(cfg, stop_at=4)
    before = (Path(cfg.OUTPUT_DIR) / "model_0000003.pth").read_bytes()
    set_up_logging(cfg.OUTPUT_DIR, rank=0)
    logging.getLogger("detectron2.engine.train_loop").addHandler(caplog.handler)
    trainer = RecordingTrainer(cfg)
    trainer.resume_or_load(resume=True)
    with full_disk(), pytest.raises(UserError, match="model_0000005.pth cannot be written"):
        trainer.train()
    logging.getLogger("detectron2.engine.train_loop").removeHandler(caplog.handler)
    assert "Traceback" not in caplog.text
    assert (Path(cfg.OUTPUT_DIR) / "model_0000003.pth").read_bytes() == before
    assert not (Path(cfg.OUTPUT_DIR) / "model_0000005.pth").exists()


def test_schedule_divides_every_group(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    trainer = train(cfg)
    first, last = trainer.rates[0], trainer.rates[-1]
    assert sorted(first) == pytest.approx([0.0002, 0.0004])
    assert last == pytest.approx([rate / 10 for rate in first])


def test_mixed_precision_on_the_cpu_is_close_to_float32(cfg):
    full = train(cfg).seen
    cfg.SOLVER.AMP.ENABLED = True
    mixed = train(cfg).seen
    assert mixed != full
    assert mixed == pytest.approx(full, rel=2e-2)


@pytest.mark.parametrize("dtypes", [(None, "float16"), ("bfloat16", "float16"), ("float16", None)])
def test_resuming_in_another_precision(cfg, dtypes):
    cfg.TEST.EVAL_PERIOD = 0
    for part, dtype in enumerate(dtypes):
        cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE = dtype is not None, dtype or ""
        cfg.SOLVER.CHECKPOINT_PERIOD = 3
        trainer = train(cfg, resume=part > 0, stop_at=None if part else 3)
    assert trainer.start_iter == 3


def test_evaluating_random_parts_is_said(cfg, tmp_path, caplog):
    logging.getLogger("d2detr.engine.trainer").addHandler(caplog.handler)
    weights = Trainer.build_model(cfg).state_dict()
    for name, said in (("whole", False), ("part", True)):
        cfg.MODEL.WEIGHTS = str(tmp_path / f"{name}.pth")
        torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
        caplog.clear()
        evaluate(cfg)
        assert ("partly random" in caplog.text) == said
        weights.pop("heads.class_embed.weight", None)
    logging.getLogger("d2detr.engine.trainer").removeHandler(caplog.handler)


def test_evaluating_no_weights_is_said(cfg, caplog):
    logging.getLogger("d2detr.engine.trainer").addHandler(caplog.handler)
    cfg.MODEL.WEIGHTS = ""
    evaluate(cfg)
    logging.getLogger("d2detr.engine.trainer").removeHandler(caplog.handler)
    assert "MODEL.WEIGHTS is empty: what is evaluated is random" in caplog.text


def test_evaluators_are_checked_before_training(cfg, monkeypatch):
    def build_evaluator(cfg, name):
        raise UserError(f"{name} lacks what it needs")

    monkeypatch.setattr(Trainer, "build_evaluator", staticmethod(build_evaluator))
    with pytest.raises(UserError, match=f"{cfg.DATASETS.TEST[0]} lacks what it needs"):
        Trainer(cfg)


def test_unknown_precision(cfg):
    cfg.SOLVER.AMP.DTYPE = "float8"
    with pytest.raises(UserError, match="SOLVER.AMP.DTYPE is 'float8'"):
        Trainer(cfg)


def test_diverged_training_stops_before_the_weights_are_lost(cfg):
    trainer = Trainer(cfg)
    trainer.model.heads.class_embed.weight.data.fill_(float("inf"))
    before = trainer.model.heads.bbox_embed.layers[0].weight.detach().clone()
    with pytest.raises(
        FloatingPointError, match="pred_logits .* iteration 0, images .*jpg.*BASE_LR"
    ):
        trainer.train()
    assert torch.equal(trainer.model.heads.bbox_embed.layers[0].weight, before)


def test_evaluates_a_checkpoint_to_the_same_numbers(cfg):
    trained = train(cfg)._last_eval_results["bbox"]
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    assert evaluate(cfg)["bbox"] == pytest.approx(trained, nan_ok=True)
    cfg.MODEL.WEIGHTS = ""
    assert evaluate(cfg, resume=True)["bbox"] == pytest.approx(trained, nan_ok=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_in_batches_gives_the_same_detections(cfg, num_workers):
    model = Trainer.build_model(cfg).eval()
    cfg.DATALOADER.NUM_WORKERS = num_workers
    detections = {}
    for size in (1, 5):
        cfg.TEST.IMS_PER_BATCH = size
        batches = list(Trainer.build_test_loader(cfg, "few_shapes"))
        assert [len(x) for x in batches] == [size] * (24 // size) + [24 % size] * (size > 1)
        with torch.no_grad():
            detections[size] = {
                x["image_id"]: output["instances"]
                for batch in batches
                for x, output in zip(batch, model(batch), strict=True)
            }
    assert list(detections[1]) == list(detections[5])
    for alone, together in zip(detections[1].values(), detections[5].values(), strict=True):
        torch.testing.assert_close(alone.scores, together.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            alone.pred_boxes.tensor, together.pred_boxes.tensor, atol=1e-2, rtol=1e-4
        )


def test_evaluates_in_batches(cfg):
    cfg.TEST.IMS_PER_BATCH = 7
    assert evaluate(cfg)["bbox"]["AP"] >= 0


def test_batches_of_evaluation_have_images(cfg):
    cfg.TEST.IMS_PER_BATCH = 0
    with pytest.raises(UserError, match="TEST.IMS_PER_BATCH is 0"):
        evaluate(cfg)


def test_detectron2_mapper_trains_too(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "default"
    cfg.SOLVER.MAX_ITER = 2
    assert len(train(cfg).seen) == 2


def test_weights_that_do_not_exist(cfg):
    cfg.MODEL.WEIGHTS = "nowhere.pth"
    with pytest.raises(UserError, match="MODEL.WEIGHTS nowhere.pth does not exist"):
        Trainer(cfg).resume_or_load(resume=False)


def test_weights_that_cannot_be_downloaded(cfg):
    cfg.MODEL.WEIGHTS = "http://localhost:9/detr.pth"
    with pytest.raises(UserError, match="http://localhost:9/detr.pth cannot be .*path of a file"):
        Trainer(cfg).resume_or_load(resume=False)


def test_weights_of_another_model(cfg, tmp_path):
    cfg.MODEL.WEIGHTS = str(tmp_path / "other.pth")
    torch.save({"model": {"encoder.block.weight": torch.zeros(2)}}, cfg.MODEL.WEIGHTS)
    with pytest.raises(UserError, match="fit no parameter.*encoder.block.weight"):
        Trainer(cfg).resume_or_load(resume=False)


def test_class_rows_of_the_weights_go_to_the_classes_of_the_dataset(cfg, tmp_path):
    trained = Trainer(cfg).model
    names = MetadataCatalog.get("few_shapes").thing_classes
    trained.heads.class_embed = torch.nn.Linear(32, len(names) + 2)
    trained.class_names = ["dragon", *names]
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": trained.state_dict()}, cfg.MODEL.WEIGHTS)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    rows = trained.heads.class_embed.weight
    assert torch.equal(trainer.model.heads.class_embed.weight, rows[1:])


def test_unknown_evaluator(cfg):
    metadata = MetadataCatalog.get("few_shapes")
    with pytest.raises(
        UserError, match="evaluator_type 'odd'; known are coco, coco_panoptic_seg, lvis"
    ):
        try:
            del metadata.evaluator_type
            metadata.evaluator_type = "odd"
            Trainer.build_evaluator(cfg, "few_shapes")
        finally:
            del metadata.evaluator_type
            metadata.evaluator_type = "coco"


def test_bar_of_a_training_on_a_terminal(cfg, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("d2detr.engine.progress_bar._PERIOD", 1)
    cfg.TEST.EVAL_PERIOD = 4
    train(cfg)
    shown = capsys.readouterr().err
    assert "Training:" in shown and "/8 " in shown
    assert "loss=" in shown and "AP=" in shown
    assert "Evaluating:" in shown
