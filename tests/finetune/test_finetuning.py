import argparse
import json
import logging
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from PIL import Image

from d2detr import report
from d2detr.engine import Trainer
from d2detr.errors import UserError
from d2detr.finetune import FinetuneTrainer, plan_finetuning, run_finetuning
from d2detr.model_zoo import get_config_file
from tests.dataset_trees import FORMATS, two_splits

SMALL = {"SOLVER.MAX_ITER": 4, "MODEL.DETR.HIDDEN_DIM": 32, "MODEL.DETR.DIM_FEEDFORWARD": 64}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of the same data, by format."""
    root = tmp_path_factory.mktemp("data")
    for name, write in FORMATS.items():
        write(root / name, two_splits())
    return root


@pytest.fixture(autouse=True)
def clean(tmp_path_factory, monkeypatch, forget_datasets):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def arguments(data, tmp_path):
    def make(name="coco", opts=(), **values):
        usual = {"DATALOADER.NUM_WORKERS": 0, "MODEL.DEVICE": "cpu", "TEST.REPORT": False}
        given = {**SMALL, **usual, **dict(opts)}
        defaults = {
            "data": str(data / name),
            "val": None,
            "weights": "",
            "output": str(tmp_path / "output"),
            "config_file": get_config_file("quickstart.yaml"),
            "resume": False,
            "overwrite": False,
            "opts": [str(x) for pair in given.items() for x in pair],
        }
        return argparse.Namespace(**{**defaults, **values})

    return make


def test_impossible_counts_are_found_while_planning(arguments):
    with pytest.raises(UserError, match="SOLVER.IMS_PER_BATCH is 0, but must be at least 1"):
        plan_finetuning(arguments(opts={"SOLVER.IMS_PER_BATCH": 0}))


def test_report_tells_the_recipe_and_is_of_the_best_model(arguments, tmp_path, monkeypatch):
    args = arguments(opts={"TEST.REPORT": True, "VIS_PERIOD": 0})
    cfg = plan_finetuning(args)
    events = []

    def noting(event, function):
        return lambda *args, **options: events.append(event) or function(*args, **options)

    monkeypatch.setattr(FinetuneTrainer, "best_is_last", lambda self: False)
    monkeypatch.setattr(Trainer, "test", staticmethod(noting("evaluated", Trainer.test)))
    monkeypatch.setattr(report, "write_report", noting("written", report.write_report))
    run_finetuning(cfg)
    assert events[-2:] == ["evaluated", "written"] and events.count("written") == 1
    recipe = json.loads((tmp_path / "output" / "recipe.json").read_text())
    assert {"key": "SOLVER.MAX_ITER", "value": 4, "reason": "given"} in recipe
    page = (tmp_path / "output" / "report.html").read_text()
    assert "the classes of the dataset" in page


@pytest.mark.parametrize("name", FORMATS)
def test_from_a_folder_to_a_model_with_its_table_and_pictures(arguments, tmp_path, caplog, name):
    with caplog.at_level(logging.INFO):
        cfg = plan_finetuning(arguments(name, opts={"TEST.EVAL_PERIOD": 0, "VIS_PERIOD": 0}))
        results = run_finetuning(cfg)
    output = tmp_path / "output"
    assert set(results["bbox"]) >= {"AP", "APs", "AP-circle", "AP-star"}
    assert json.loads((output / "results.json").read_text()).keys() == results.keys()
    assert "Per-category bbox AP" in caplog.text
    assert "model_best.pth" in caplog.text
    for order in ("first", "worst"):
        picture = np.asarray(Image.open(output / "predictions" / f"{order}.png"))
        assert picture.std() > 10
    assert [x["name"] for x in json.loads((output / "classes.json").read_text())] == list(
        MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
    )
    assert len(list(output.glob("model_0*.pth"))) <= 2
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert written["SOLVER"]["MAX_ITER"] == 4


def test_resumes_a_killed_run_and_keeps_its_best_model(arguments, tmp_path, monkeypatch, caplog):
    cfg = plan_finetuning(arguments(opts={"SOLVER.MAX_ITER": 20, "VIS_PERIOD": 0}))
    killed_at = 7
    step = FinetuneTrainer.run_step

    def killed(self):
        if self.iter == killed_at:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FinetuneTrainer, "run_step", killed)
        run_finetuning(cfg)
    output = tmp_path / "output"
    assert (output / "last_checkpoint").read_text() == "model_0000005.pth"
    record = {"name": "bbox/AP", "metric": 101.0, "iteration": 3, "evaluated": 5}
    (output / "best.json").write_text(json.dumps(record))
    best = (output / "model_best.pth").read_bytes()

    with pytest.raises(UserError, match="holds another run.*--resume.*--overwrite"):
        plan_finetuning(arguments())
    with caplog.at_level(logging.INFO):
        cfg = plan_finetuning(arguments(opts={"SOLVER.MAX_ITER": 20, "VIS_PERIOD": 0}, resume=True))
        run_finetuning(cfg, resume=True)
    assert f"Loading trainer from {output}/model_0000005.pth" in caplog.text
    # No AP exceeds 101, so the best model is still that of the first part.
    assert (output / "model_best.pth").read_bytes() == best
    assert json.loads((output / "best.json").read_text()) == {**record, "evaluated": 20}


def test_resuming_another_run_is_refused(arguments, tmp_path):
    plan_finetuning(arguments("coco"))
    with pytest.raises(UserError, match=r"--resume: the run in .* trains on auto:.*coco:train"):
        plan_finetuning(arguments("voc", resume=True))


@pytest.fixture
def old_run(tmp_path):
    output = tmp_path / "output"
    (output / "inference").mkdir(parents=True)
    for name in ("model_final.pth", "metrics.json", "notes.txt", "inference/old.json"):
        (output / name).write_text("x")
    return output


def test_overwrite_removes_the_run_and_nothing_else(arguments, old_run):
    run_finetuning(plan_finetuning(arguments(overwrite=True)))
    assert (old_run / "notes.txt").read_text() == "x"
    assert not (old_run / "inference" / "old.json").exists()
    torch.load(old_run / "model_final.pth", weights_only=True)
    assert not [x for x in old_run.iterdir() if x.name.startswith(".")]


def test_overwrite_removes_nothing_before_training_works(arguments, old_run, data, monkeypatch):
    def is_as_before():
        return (old_run / "model_final.pth").read_text() == "x" and not (
            old_run / "log.txt"
        ).exists()

    for mistake in ({"data": "no/such/folder"}, {"weights": "none.pth"}, {"opts": {"SOLVER.X": 1}}):
        with pytest.raises(UserError):
            plan_finetuning(arguments(overwrite=True, **mistake))
        assert is_as_before()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no batch"):
        patch.setattr(FinetuneTrainer, "run_step", fail_without_a_batch)
        run_finetuning(plan_finetuning(arguments(overwrite=True)))
    assert is_as_before()


def fail_without_a_batch(self):
    raise RuntimeError("no batch")


def test_weights_of_the_run_to_be_replaced_are_not_lost(arguments, old_run):
    for weights in (old_run, old_run / "model_final.pth"):
        with pytest.raises(UserError, match="is part of the run that --overwrite replaces"):
            plan_finetuning(arguments(overwrite=True, weights=str(weights)))
        assert (old_run / "model_final.pth").read_text() == "x"


def test_a_start_that_failed_can_be_repeated(arguments):
    wrong = arguments(opts={"SOLVER.AMP.DTYPE": "float8"})
    with pytest.raises(UserError, match="float8"):
        run_finetuning(plan_finetuning(wrong))
    plan_finetuning(arguments())


def count_evaluations(monkeypatch):
    evaluated, test = [], Trainer.test

    def count(trainer, *args):
        evaluated.append(1)
        return test(*args)

    monkeypatch.setattr(Trainer, "test", classmethod(count))
    return evaluated


def test_two_iterations_are_evaluated_once(arguments, monkeypatch):
    evaluated = count_evaluations(monkeypatch)
    results = run_finetuning(
        plan_finetuning(arguments(opts={"SOLVER.MAX_ITER": 2, "VIS_PERIOD": 0}))
    )
    assert len(evaluated) == 1
    assert "AP" in results["bbox"]


@pytest.mark.parametrize("damaged", ["best.json", "model_best.pth"])
def test_best_model_that_was_not_written_whole(arguments, tmp_path, monkeypatch, damaged):
    opts = {"SOLVER.MAX_ITER": 4, "SOLVER.CHECKPOINT_PERIOD": 1, "TEST.EVAL_PERIOD": 1}
    opts["VIS_PERIOD"] = 0
    run_finetuning(plan_finetuning(arguments(opts=opts)))
    output = tmp_path / "output"
    for name in (damaged, "model_final.pth", "last_checkpoint"):
        (output / name).write_text("")
    run_finetuning(plan_finetuning(arguments(opts=opts, resume=True)), resume=True)
    torch.load(output / "model_best.pth", weights_only=True)
    assert json.loads((output / "best.json").read_text())["evaluated"] == 4


def test_evaluation_that_was_killed_is_made_good(arguments, monkeypatch):
    opts = {"SOLVER.CHECKPOINT_PERIOD": 2, "TEST.EVAL_PERIOD": 2, "VIS_PERIOD": 0}

    def kill(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "test", kill)
        run_finetuning(plan_finetuning(arguments(opts=opts)))
    evaluated = count_evaluations(monkeypatch)
    cfg = plan_finetuning(arguments(opts=opts, resume=True))
    trainer = FinetuneTrainer(cfg)
    trainer.resume_or_load()
    assert trainer.start_iter == 2
    trainer.train()
    assert len(evaluated) == 2


def test_starts_from_a_run_of_its_own_with_other_classes(arguments, tmp_path, data):
    once = {"TEST.EVAL_PERIOD": 0, "VIS_PERIOD": 0}
    run_finetuning(plan_finetuning(arguments(opts=once, output=str(tmp_path / "first"))))
    cfg = plan_finetuning(
        arguments(config_file=None, weights=str(tmp_path / "first"), output=str(tmp_path / "two"))
    )
    assert str(tmp_path / "first" / "model_best.pth") == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.BACKBONE.NAME == "build_tiny_resnet_backbone"
    assert cfg.MODEL.DETR.HIDDEN_DIM == 32
    trainer = FinetuneTrainer(cfg)
    trainer.resume_or_load(resume=False)
    saved = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    for key, value in trainer.model.state_dict().items():
        torch.testing.assert_close(value, saved[key])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "runs/none.pth"}, r"--weights runs/none.pth does not exist.*nearest"),
        ({"data": "no/such/folder"}, "Dataset .*no/such/folder does not exist"),
        ({"opts": {"SOLVER.MAX_ITR": 3}}, "MAX_ITR"),
    ],
)
def test_bad_input(arguments, values, message):
    with pytest.raises(UserError, match=message):
        plan_finetuning(arguments(**values))


def test_images_with_more_objects_than_queries_are_met_by_more_queries(arguments, tmp_path, caplog):
    splits = two_splits()
    content = splits["train"][0]
    template, first = content["annotations"][0], len(content["annotations"]) + 1
    content["annotations"] += [
        {**template, "id": first + i, "image_id": 1, "bbox": [i, i, 9, 9]} for i in range(10)
    ]
    FORMATS["coco"](tmp_path / "crowded", splits)
    with caplog.at_level(logging.INFO):
        cfg = plan_finetuning(arguments(data=str(tmp_path / "crowded")))
    assert cfg.MODEL.DETR.NUM_OBJECT_QUERIES == 20
    assert "objects, of which 10 queries could find 10" in " ".join(caplog.text.split())


def test_run_folder_without_a_checkpoint(arguments, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(get_config_file("quickstart.yaml"), tmp_path / "empty" / "config.yaml")
    with pytest.raises(UserError, match="config.yaml, but no checkpoint"):
        plan_finetuning(arguments(config_file=None, weights=str(tmp_path / "empty")))
