from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d2detr.engine import Trainer


def test_tensorboard_gets_curves_and_the_confusion_of_every_evaluation(shapes_cfg):
    shapes_cfg.VIS_PERIOD, shapes_cfg.TEST.EVAL_PERIOD, shapes_cfg.SOLVER.MAX_ITER = 2, 2, 4
    shapes_cfg.SOLVER.EMA_DECAY = 0.5
    trainer = Trainer(shapes_cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    written = EventAccumulator(shapes_cfg.OUTPUT_DIR, {"images": 0}).Reload()
    assert len(written.Images("few_shapes: confusion of classes")) == 2
    assert written.Images("truth (left), predictions (right)")
    assert written.Scalars("bbox/AP") and written.Scalars("total_loss")
