import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import PolygonMasks

from d2detr.engine import build_optimizer
from d2detr.engine.prediction_pictures import PredictionPictures
from tests.modeling.inputs import make_input


class PictureCounter(PredictionPictures):
    """Remembers the pictures of every iteration, which nobody writes here."""

    def before_train(self):
        super().before_train()
        self.pictures = {}

    def after_step(self):
        super().after_step()
        storage = self.trainer.storage
        self.pictures[self.trainer.iter] = {name: x for name, x, _ in storage._vis_data}
        storage.clear_images()


def train(cfg, batches, period):
    """Draws in a trainer of Detectron2's own."""
    model = build_model(cfg)
    if cfg.MODEL.MASK_ON:  # untrained queries shall become segments
        model.segmenter.panoptic_threshold = 0.0
        model.heads.class_embed.bias.data[-1] = -10
    trainer = SimpleTrainer(model, batches, build_optimizer(cfg, model))
    drawer = PictureCounter(model, period, dataset_name=cfg.DATASETS.TRAIN[0])
    trainer.register_hooks([drawer])
    trainer.train(0, len(batches))
    assert model.training
    return drawer.pictures


def test_draws_truth_beside_predictions_every_few_iterations(tiny_cfg):
    pictures = train(tiny_cfg, [[make_input(48, 64, 1)]] * 5, period=3)
    assert [bool(x) for x in pictures.values()] == [True, False, False, True, False]
    (picture,) = pictures[3].values()
    assert picture.shape[0] == 3
    assert picture.shape[2] > 2 * picture.shape[1]


def test_draws_masks_and_segments(tiny_mask_cfg):
    polygons = make_input(48, 64, 1, masks=True)
    polygons["instances"].gt_masks = PolygonMasks([[np.array([1.0, 1, 30, 1, 30, 30])]])
    batches = [[make_input(48, 64, 1, masks=True)], [polygons], [make_input(48, 64, 0)]]
    for pictures in train(tiny_mask_cfg, batches, period=1).values():
        assert set(pictures) == {"truth (left), predictions (right)", "panoptic segmentation"}
        assert all(picture.shape[2] > 2 * picture.shape[1] for picture in pictures.values())


def test_drawing_changes_nothing_of_the_training(tiny_cfg):
    tiny_cfg.MODEL.DETR.DROPOUT = 0.1
    weights = []
    for period in (1, 100):
        torch.manual_seed(0)
        model = build_model(tiny_cfg)
        trainer = SimpleTrainer(
            model, [[make_input(48, 64, 1)]] * 3, build_optimizer(tiny_cfg, model)
        )
        trainer.register_hooks([PredictionPictures(model, period, dataset_name=None)])
        trainer.train(0, 3)
        weights.append(torch.cat([x.flatten() for x in model.parameters()]))
    assert torch.equal(*weights)
