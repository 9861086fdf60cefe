import os
import re

import pytest

from d2detr.finetune import batch_size
from d2detr.finetune.batch_size import free_memory, largest_batch
from d2detr.finetune.recipe import apply_recipe, describe_recipe


@pytest.fixture
def recipe(tiny_cfg, monkeypatch):
    """Returns the values chosen on a machine where ``fitting`` images fit."""

    def apply(num_images, fitting=1000, objects=7, pretrained=True, opts=(), **values):
        monkeypatch.setattr(
            "d2detr.finetune.recipe.largest_batch", lambda cfg: (fitting, "memory says so")
        )
        cfg = tiny_cfg.clone()
        cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 64, 1e-4
        base = cfg.clone()
        cfg.merge_from_list(list(opts))
        choices = apply_recipe(
            cfg,
            num_images,
            3,
            objects,
            pretrained=pretrained,
            base=base,
            given=opts[::2],
            **values,
        )
        return cfg, {choice.key: choice for choice in choices}

    return apply


def test_follows_from_the_size_of_the_dataset(recipe):
    cfg, choices = recipe(11_540)
    assert cfg.SOLVER.IMS_PER_BATCH == 16
    assert cfg.SOLVER.BASE_LR == 5e-5
    assert cfg.SOLVER.MAX_ITER == -(-39 * 11_540 // 16)
    assert (int(0.75 * cfg.SOLVER.MAX_ITER),) == cfg.SOLVER.STEPS
    assert cfg.SOLVER.WARMUP_ITERS == 500
    assert cfg.MODEL.DETR.NUM_CLASSES == 3
    assert cfg.MODEL.DETR.NUM_OBJECT_QUERIES == 10
    assert "39 epochs of 11540 images" in choices["SOLVER.MAX_ITER"].reason


@pytest.mark.parametrize(
    ("objects", "opts", "queries", "reason"),
    [
        (10, (), 10, "kept"),
        (11, (), 20, "11 objects, of which 10 queries could find 10; the 10 new queries"),
        (143, (), 160, "the 150 new queries start untrained"),
        (143, ("MODEL.DETR.NUM_OBJECT_QUERIES", "12"), 12, "given"),
        (143, ("MODEL.DETR.FREEZE_BOX_MODEL", "True"), 10, "frozen.* 133 cannot be found"),
    ],
)
def test_queries_are_raised_for_full_images(recipe, objects, opts, queries, reason):
    cfg, choices = recipe(5000, objects=objects, opts=opts)
    assert queries == cfg.MODEL.DETR.NUM_OBJECT_QUERIES
    assert re.search(reason, choices["MODEL.DETR.NUM_OBJECT_QUERIES"].reason)


@pytest.mark.parametrize(
    ("num_images", "epochs"), [(50, 150), (3000, 150), (9000, 50), (100_000, 20)]
)
def test_small_datasets_are_seen_more_often(recipe, num_images, epochs):
    cfg, _ = recipe(num_images)
    assert cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / num_images == pytest.approx(
        epochs, rel=0.02
    )


@pytest.mark.parametrize(
    ("num_images", "fitting", "num_devices", "batch", "reason"),
    [
        (5000, 5, 1, 4, "memory says so"),
        (5000, 0, 1, 1, "memory says so"),
        (5000, 5, 8, 16, "fewer steps"),
        (40, 1000, 1, 4, "too few steps of 40 images"),
        (3, 1000, 1, 1, "too few steps of 3 images"),
    ],
)
def test_batch_follows_from_memory_and_dataset(
    recipe, num_images, fitting, num_devices, batch, reason
):
    cfg, choices = recipe(num_images, fitting, num_devices=num_devices)
    assert batch == cfg.SOLVER.IMS_PER_BATCH
    assert reason in choices["SOLVER.IMS_PER_BATCH"].reason


def test_training_from_scratch_takes_longer(recipe):
    assert recipe(1000, pretrained=False)[0].SOLVER.MAX_ITER == 2 * recipe(1000)[0].SOLVER.MAX_ITER


def test_what_is_given_stays_and_the_rest_follows_from_it(recipe):
    opts = ["SOLVER.MAX_ITER", "100", "SOLVER.IMS_PER_BATCH", "8", "TEST.EVAL_PERIOD", "33"]
    cfg, choices = recipe(5000, opts=opts)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (100, (75,))
    assert (cfg.TEST.EVAL_PERIOD, cfg.SOLVER.CHECKPOINT_PERIOD) == (33, 10)
    assert cfg.SOLVER.IMS_PER_BATCH == 8
    assert pytest.approx(1e-4 * (8 / 64) ** 0.5, rel=0.02) == cfg.SOLVER.BASE_LR
    assert choices["SOLVER.MAX_ITER"].reason == "given"
    assert "SOLVER.MAX_ITER" in describe_recipe(list(choices.values()))


def test_memory_grows_with_the_image_and_what_fits_follows(tiny_cfg, monkeypatch):
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 2**30)
    small, reason = largest_batch(tiny_cfg)
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (192,)
    large, _ = largest_batch(tiny_cfg)
    assert "1.0 GiB are free" in reason
    assert 3 < small / large < 8  # four times the pixels, and attention grows faster
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 2**20)
    assert largest_batch(tiny_cfg)[0] == 1


def test_free_memory_is_less_than_all_of_it():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free_memory("cpu") < total


def test_measuring_memory_counts_what_autograd_keeps(tiny_cfg):
    kept, weights = batch_size._training_bytes(tiny_cfg)
    model = batch_size.build_model(tiny_cfg)
    assert weights == sum(x.numel() * 4 for x in model.parameters())
    assert kept > 2 * 3 * 96 * 160 * 4  # much more than the image itself, in float32
