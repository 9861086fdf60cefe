"""Whatever is in a COCO file is found or refused in a sentence, by trainer and doctor alike."""

import copy
import random

from detectron2.data import MetadataCatalog

from d2detr.datasets.catalog import load_dataset
from d2detr.doctor import check_dataset, check_datasets
from d2detr.errors import UserError

JUNK = [
    *(None, True, 0, 1, -1, 2, 1.5, 1e308, 10**400, float("nan"), float("inf")),
    *("", "0", "1", "x", "a.jpg", "/", "\0", "\ud800", [], [None], [[]], [1, 2, 3, 4], ["1"] * 4),
    *([[1, 2, 3, 4, 5, 6]], [[0.5] * 4] * 3, {}, {"id": 1}, {"size": [0, 0], "counts": [0]}),
    *({"counts": "x"}, {"size": [30, 40], "counts": [-5, 1205]}, {"size": None, "counts": None}),
]
FIRST, LAST = 0, 250


def mutate(content, chance):
    """Replace, repeat or remove something, often one of the values and seldom a whole list."""
    place, key = content, chance.choice(list(content))
    while isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.9:
        place = place[key]
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
    action = chance.random()
    if action < 0.1:
        del place[key]
    elif action < 0.2 and isinstance(place, list):
        place.append(copy.deepcopy(place[key]))
    elif action < 0.3 and isinstance(place, dict):
        place[chance.choice(["ignore", "keypoints", "segmentation", "area", "x"])] = junk(chance)
    else:
        place[key] = junk(chance)


def junk(chance):
    return copy.deepcopy(chance.choice(JUNK))


def spoil(seed):
    def edit(content):
        content["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": [30, 60, 1110]}
        content["annotations"][2]["segmentation"] = [[0, 0, 30, 0, 30, 20]]
        chance = random.Random(seed)
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            mutate(content, chance)

    return edit


def doctor(target):
    try:
        return not check_dataset(target).errors
    except UserError:
        return False


def trainer(cfg):
    try:
        check_datasets(cfg)
        return True
    except UserError:
        return False


def test_registered_files(cfg, tiny_coco):
    passed = 0
    for seed in range(FIRST, LAST):
        name = f"seed{seed}"
        tiny_coco(spoil(seed), name)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
        verdict = doctor(name)
        forget_metadata(name)
        assert trainer(cfg) == verdict, seed
        if verdict:  # then Detectron2 can read it
            load_dataset(name)
            passed += 1
    assert 0.1 < passed / (LAST - FIRST) < 0.9  # the test looks at both


def test_files_that_are_recognised(cfg, tiny_coco, monkeypatch, tmp_path):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    for seed in range(FIRST, 40):
        file = str(tiny_coco(spoil(seed), f"seed{seed}") / "instances.json")
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"auto:{file}:train",), (f"auto:{file}:val",)
        verdict = doctor(file)
        assert trainer(cfg) == verdict, seed
        if verdict:
            load_dataset(f"auto:{file}:train")


def forget_metadata(name):
    """Let the trainer meet the dataset as if the doctor had not seen it."""
    metadata = MetadataCatalog.pop(name)
    kept = {key: metadata.get(key) for key in ("json_file", "image_root", "evaluator_type")}
    MetadataCatalog.get(name).set(**kept)
