import copy
from types import SimpleNamespace

import pytest
from detectron2.data.datasets import register_coco_instances

from tests.dataset_trees import coco, two_splits, write_json

SPLITS = two_splits()
TRAIN, VAL = "planted_train", "planted_val"


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def plant(tmp_path, forget_datasets):
    """Writes and registers two splits with masks after ``edit`` has spoiled them.

    ``edit`` gets their contents as "train" and "val", and their folder as "root".
    """

    def write(edit=lambda data: None):
        root = tmp_path / "data"
        contents = {name: (copy.deepcopy(x), pixels) for name, (x, pixels) in SPLITS.items()}
        coco(root, contents)
        for content, _ in contents.values():
            for annotation in content["annotations"]:
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        data = SimpleNamespace(root=root, **{name: x for name, (x, _) in contents.items()})
        edit(data)
        for name, split in ((TRAIN, "train"), (VAL, "val")):
            file = root / "annotations" / f"instances_{split}2017.json"
            write_json(file, getattr(data, split))
            register_coco_instances(name, {}, str(file), str(root / f"{split}2017"))
        return root

    return write


@pytest.fixture
def planted_cfg(cfg):
    """A config that trains on what ``plant`` registers."""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,)
    return cfg
