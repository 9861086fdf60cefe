import pytest

from d2detr.datasets import ShapesSplit, register_shapes_split


@pytest.fixture(scope="session")
def few_shapes(tmp_path_factory):
    """The name of a registered dataset of 24 small images."""
    root = tmp_path_factory.mktemp("datasets")
    register_shapes_split("few_shapes", root / "few", ShapesSplit(num_images=24, size=64))
    return "few_shapes"


@pytest.fixture
def shapes_cfg(tiny_cfg, few_shapes):
    """A config that trains 8 iterations of 4 images."""
    cfg = tiny_cfg
    cfg.MODEL.DETR.NUM_CLASSES = 0
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (few_shapes,)
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.STEPS = (5,)
    cfg.SOLVER.MAX_ITER = 8
    cfg.SEED = 1
    cfg.VIS_PERIOD = 0
    return cfg
