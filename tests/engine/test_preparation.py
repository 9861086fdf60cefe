import pytest
from detectron2.modeling import build_model

from d2detr.classes import Classes, resolve_classes
from d2detr.engine.preparation import on_first_processes, on_main_process, prepare
from d2detr.errors import UserError
from tests.dataset_trees import coco, two_splits


@pytest.fixture
def auto_cfg(tiny_cfg, tmp_path, monkeypatch, forget_datasets):
    """A config whose datasets nobody has registered yet."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    coco(tmp_path / "data", two_splits(4, 2))
    monkeypatch.chdir(tmp_path)
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("auto:data:train",), ("auto:data:val",)
    return tiny_cfg


def test_every_process_gets_the_same_answer(auto_cfg):
    auto_cfg.MODEL.DETR.NUM_CLASSES = 0
    run = prepare(auto_cfg)
    assert run.classes == resolve_classes(auto_cfg)
    assert run.weights == ""


def test_a_model_is_built_of_auto_datasets_without_preparation(auto_cfg):
    model = build_model(auto_cfg)
    assert len(model.class_names) == 5


def test_class_names_do_not_depend_on_what_was_loaded_before(cfg, tiny_coco):
    tiny_coco()
    cfg.DATASETS.TRAIN, cfg.MODEL.DETR.NUM_CLASSES = ("tiny",), 2
    assert resolve_classes(cfg) == Classes(2, ("cat", "dog"))


def test_missing_weights_are_found_before_anything_is_built(auto_cfg):
    auto_cfg.MODEL.WEIGHTS = "nowhere.pth"
    with pytest.raises(UserError, match="nowhere.pth does not exist"):
        prepare(auto_cfg)
    prepare(auto_cfg, with_weights=False)


def fail():
    raise UserError("no such file")


def test_other_processes_fail_with_the_main_one(monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda own: ["no such file", own])
    with pytest.raises(UserError, match="no such file"):
        on_main_process(fail)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda own: [None, own])
    assert on_main_process(fail) is None


def test_first_processes_fail_with_the_others():
    with pytest.raises(UserError, match="no such file"):
        on_first_processes(fail)
    assert on_first_processes(lambda: 7) == 7


def test_processes_that_see_other_classes_are_told(auto_cfg, monkeypatch):
    def all_gather(own):
        return [Classes(5), own] if isinstance(own, Classes) else [own, own]

    monkeypatch.setattr("detectron2.utils.comm.all_gather", all_gather)
    with pytest.raises(UserError, match=r"Process 0 finds Classes\(count=5, names=None\), but"):
        prepare(auto_cfg)
