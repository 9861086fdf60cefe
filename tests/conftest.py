import json
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from PIL import Image

import d2detr.modeling  # noqa: F401 before anything imports Detectron2, which it repairs
from d2detr.config import load_config
from d2detr.model_zoo import get_config_file

torch.set_num_threads(1)  # two tests run at a time, see tools/run_tests.sh


@pytest.fixture
def cfg():
    cfg = load_config("")
    cfg.INPUT.FORMAT = "RGB"
    return cfg


@pytest.fixture
def tiny_cfg(tmp_path):
    """A config of a DETR that takes milliseconds, with 5 classes and 10 queries."""
    cfg = load_config(get_config_file("learning/detr.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 5
    cfg.MODEL.DETR.HIDDEN_DIM = 32
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.REPORT = False
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


@pytest.fixture
def tiny_coco(tmp_path, forget_datasets):
    """Writes and registers "tiny": two 40 x 30 images, two categories, three annotations."""

    from detectron2.data.datasets import register_coco_instances  # after d2detr has repaired it

    def register(edit=lambda content: None, name="tiny"):
        directory = tmp_path / name
        directory.mkdir()
        for stem in ("a", "b"):
            Image.effect_noise((40, 30), 50).convert("RGB").save(directory / f"{stem}.jpg")
        boxes = [(1, 1, [2, 3, 10, 12]), (1, 2, [20, 5, 8, 9]), (2, 1, [0, 0, 30, 20])]
        content = {
            "images": [
                {"id": i + 1, "file_name": f"{stem}.jpg", "width": 40, "height": 30}
                for i, stem in enumerate("ab")
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {
                    "id": 11 + i,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [float(x) for x in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
                for i, (image_id, category_id, box) in enumerate(boxes)
            ],
        }
        edit(content)
        json_file = directory / "instances.json"
        json_file.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(json_file), str(directory))
        return directory

    return register


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond 20 kB, as on a disk that gets full."""

    @contextmanager
    def limit():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("there is no Chromium: install one, or name it by the variable CHROMIUM")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=options)
        yield browser
        browser.close()


@pytest.fixture
def faults():
    """What a page of ``open_page`` says on its console, and what it loads besides itself."""
    return []


@pytest.fixture
def open_page(browser, faults):
    """Opens an HTML file in a browser, as wide as a telephone, in light or dark colours."""
    pages = []

    def open_file(path, colours="light"):
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme=colours)
        pages.append(page)

        def check_url(request):
            if request.url != path.as_uri() and not request.url.startswith(("data:", "blob:")):
                faults.append(request.url)

        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", check_url)
        page.goto(path.as_uri())
        return page

    yield open_file
    for page in pages:
        page.close()
