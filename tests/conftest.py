import pytest
import torch

import d2detr.modeling  # noqa: F401 before anything imports Detectron2, which it repairs
from d2detr.config import load_config
from d2detr.model_zoo import get_config_file

torch.set_num_threads(2)


@pytest.fixture
def tiny_cfg(tmp_path):
    """A config of a DETR that takes milliseconds, with 5 classes and 10 queries."""
    cfg = load_config(get_config_file("quickstart.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 5
    cfg.MODEL.DETR.HIDDEN_DIM = 32
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.fixture
def tiny_mask_cfg(tiny_cfg):
    """``tiny_cfg`` with a mask head, for the 7 classes of the panoptic shapes."""
    tiny_cfg.MODEL.MASK_ON = True
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3"]
    tiny_cfg.MODEL.DETR.NUM_CLASSES = 7
    tiny_cfg.MODEL.DETR.TEST.PANOPTIC_ON = True
    tiny_cfg.DATASETS.TRAIN = ("shapes_train_panoptic",)
    tiny_cfg.DATASETS.TEST = ("shapes_val_panoptic",)
    return tiny_cfg


@pytest.fixture
def forget_datasets():
    """Removes the datasets that a test registers."""
    from detectron2.data import DatasetCatalog, MetadataCatalog  # after d2detr has repaired it

    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
