from itertools import islice

import pytest
import torch
from detectron2.data import DatasetCatalog

from d2detr.data import ResumableTrainLoader, build_dataset_mapper
from d2detr.errors import UserError


@pytest.fixture
def loader_cfg(cfg, tiny_coco):
    """Four images, two of them upright, with a random flip, crop and size."""

    def edit(content):
        content["images"] += [{**x, "id": x["id"] + 2} for x in content["images"]]
        content["annotations"] += [
            {**x, "id": x["id"] + 3, "image_id": x["image_id"] + 2} for x in content["annotations"]
        ]

    tiny_coco(edit)
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 24, 28)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute_range", (15, 30)
    cfg.SEED = 5
    return cfg


def batches(cfg, start=0, stop=9, mapper=None, seed=None):
    loader = ResumableTrainLoader(cfg, mapper or build_dataset_mapper(cfg, is_train=True))
    loader.start_iter = start
    loader.seed = loader.seed if seed is None else seed
    return [[(x["image_id"], x["image"]) for x in batch] for batch in islice(loader, stop - start)]


def is_same(first, second):
    return len(first) == len(second) and all(
        a[0] == b[0] and torch.equal(a[1], b[1])
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("grouping", [False, True])
def test_neither_workers_nor_interruptions_change_the_batches(loader_cfg, grouping):
    cfg = loader_cfg
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    turned = {2, 3}
    for record in DatasetCatalog.get("tiny"):
        assert record["width"] > record["height"]
    records = DatasetCatalog.get("tiny")
    for record in records:
        if record["image_id"] in turned:  # as far as the grouping knows
            record["width"], record["height"] = record["height"], record["width"]
    DatasetCatalog.remove("tiny")
    DatasetCatalog.register("tiny", lambda: records)
    mapper = build_dataset_mapper(cfg, is_train=True)

    def map_turned(record):
        return mapper({**record, "width": 40, "height": 30})

    cfg.DATALOADER.NUM_WORKERS = 0
    whole = batches(cfg, mapper=map_turned)
    if grouping:
        assert all(len({x in turned for x, _ in batch}) == 1 for batch in whole)
    for workers, start in ((2, 0), (2, 5), (1, 3), (0, 4)):
        cfg.DATALOADER.NUM_WORKERS = workers
        assert is_same(batches(cfg, start, mapper=map_turned), whole[start:])
    assert not is_same(batches(cfg, mapper=map_turned, seed=6), whole)


@pytest.mark.parametrize(
    "sampler", ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
)
def test_the_seed_decides_the_order_of_every_sampler(loader_cfg, sampler):
    cfg = loader_cfg
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.RANDOM_SUBSET_RATIO = sampler, 0.5
    cfg.DATALOADER.NUM_WORKERS = 0
    first = batches(cfg)
    cfg.SEED = 8
    assert is_same(batches(cfg, seed=5), first)


def test_images_that_the_mapper_leaves_out_are_replaced(loader_cfg):
    cfg = loader_cfg
    cfg.DATALOADER.NUM_WORKERS = 0
    mapper = build_dataset_mapper(cfg, is_train=True)

    def leave_out(record):
        return mapper(record) if record["image_id"] == 3 else None

    assert {x for batch in batches(cfg, mapper=leave_out) for x, _ in batch} == {3}
    with pytest.raises(UserError, match="left out 100 images in a row"):
        batches(cfg, mapper=lambda record: None)


def test_batches_that_the_processes_cannot_share(loader_cfg):
    loader_cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH is 0"):
        batches(loader_cfg)
