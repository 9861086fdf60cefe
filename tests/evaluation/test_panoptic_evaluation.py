import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.structures import Boxes, Instances

import d2detr
from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.panoptic import read_segment_ids
from d2detr.errors import UserError
from d2detr.evaluation import (
    PanopticEvaluator,
    ThingsEvaluator,
    build_evaluator,
    evaluate_panoptic_files,
    panoptic_evaluation,
)

NAME = "evaluated_shapes_panoptic"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluation") / "shapes"
    register_shapes_split("evaluated_shapes", directory, ShapesSplit(num_images=4, size=48))
    yield DatasetCatalog.get(NAME)
    for name in ("evaluated_shapes", NAME):
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name)


def perfect_output(record):
    """The truth in the form of a model's output, with ids of its own."""
    true_ids = read_segment_ids(record["pan_seg_file_name"])
    ids = np.zeros(true_ids.shape, dtype=np.int32)
    things, segments = [], []
    for number, segment in enumerate(record["segments_info"], start=1):
        mask = true_ids == segment["id"]
        ids[mask] = number
        segments.append({**segment, "id": number})
        x, y, width, height = segment["bbox"]
        things.append((segment["category_id"], [x, y, x + width, y + height], mask))
    instances = Instances(ids.shape)
    instances.pred_classes = torch.tensor([x[0] for x in things])
    instances.pred_boxes = Boxes([x[1] for x in things])
    instances.pred_masks = torch.from_numpy(np.stack([x[2] for x in things]))
    instances.scores = torch.ones(len(things))
    return {"instances": instances, "panoptic_seg": (torch.from_numpy(ids), segments)}


def run(evaluator, dataset, make_output=perfect_output):
    evaluator.reset()
    for record in dataset:
        evaluator.process([record], [make_output(record)])
    return evaluator.evaluate()


def test_perfect_predictions(dataset, tmp_path):
    results = run(PanopticEvaluator(NAME, str(tmp_path)), dataset)["panoptic_seg"]
    assert results["PQ"] == results["SQ_th"] == results["RQ_st"] == 100
    assert results["PQ-sky"] == 100


def test_several_images_at_once(dataset, tiny_mask_cfg, tmp_path):
    evaluator = build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))
    alone = run(evaluator, dataset)
    evaluator.reset()
    for batch in (dataset[:3], dataset[3:]):
        evaluator.process(batch, [perfect_output(record) for record in batch])
    together = evaluator.evaluate()
    assert {"bbox", "segm", "panoptic_seg"} == set(together)
    for task, values in together.items():
        assert values == pytest.approx(alone[task], nan_ok=True)


def test_one_wrong_class_counts_in_both(dataset, tmp_path):
    """Of C classes with truth, one thing is missed once and found once too often elsewhere."""

    def make_output(record):
        output = perfect_output(record)
        if record is dataset[0]:
            for segment in output["panoptic_seg"][1]:
                if segment["category_id"] == 5:
                    segment["category_id"], segment["isthing"] = 6, False
        return output

    results = run(PanopticEvaluator(NAME, str(tmp_path)), dataset, make_output)["panoptic_seg"]
    # Sky is found in 3 of 4 images; meadow in 4 of 4, and once too often.
    assert results["PQ-sky"] == pytest.approx(100 * 3 / 3.5, abs=1e-9)
    assert results["PQ-meadow"] == pytest.approx(100 * 4 / 4.5, abs=1e-9)
    assert results["PQ_st"] == pytest.approx(50 * (3 / 3.5 + 4 / 4.5), abs=1e-9)
    assert results["PQ_th"] == 100


def test_files_in_submission_format(dataset, tmp_path):
    run(PanopticEvaluator(NAME, str(tmp_path)), dataset)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [x["image_id"] for x in content["annotations"]] == [1, 2, 3, 4]
    for annotation in content["annotations"]:
        ids = read_segment_ids(str(tmp_path / "panoptic" / annotation["file_name"]))
        assert {x["id"] for x in annotation["segments_info"]} == set(np.unique(ids).tolist())
        assert {x["category_id"] for x in annotation["segments_info"]} <= set(range(1, 8))


def test_several_processes_agree_with_one(dataset, tmp_path, monkeypatch):
    evaluator = PanopticEvaluator(NAME, str(tmp_path))
    run(evaluator, dataset)
    metadata = MetadataCatalog.get(NAME)
    arguments = (
        metadata.panoptic_json,
        metadata.panoptic_root,
        json.loads((tmp_path / "panoptic.json").read_text())["annotations"],
        tmp_path / "panoptic",
    )
    one = evaluate_panoptic_files(*arguments)
    monkeypatch.setattr(panoptic_evaluation, "_IMAGES_PER_TASK", 1)
    monkeypatch.setattr(panoptic_evaluation, "_IMAGES_PER_PROCESS", 2)
    several = evaluate_panoptic_files(*arguments, num_processes=2)
    assert np.array_equal(one.counts, several.counts)
    assert one.counts[:, 1].sum() > 8


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' processes need a guard")
def test_several_processes_need_no_guard_in_the_script(dataset, tmp_path):
    metadata = MetadataCatalog.get(NAME)
    script = tmp_path / "script.py"
    script.write_text(f"""
import json
import d2detr
from d2detr.evaluation import evaluate_panoptic_files, panoptic_evaluation

print("the script runs")
panoptic_evaluation._IMAGES_PER_TASK = panoptic_evaluation._IMAGES_PER_PROCESS = 1
truth, folder = {metadata.panoptic_json!r}, {metadata.panoptic_root!r}
predictions = json.load(open(truth))["annotations"]
quality = evaluate_panoptic_files(truth, folder, predictions, folder, num_processes=2)
print(quality.mean()["PQ"])
""")
    environment = {**os.environ, "PYTHONPATH": str(Path(d2detr.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )
    assert process.stdout.split("\n") == ["the script runs", "1.0", ""], process.stderr


@pytest.fixture
def changed_metadata():
    """Registers metadata like that of the dataset, with changes, under the name "changed"."""

    def register(**changes):
        values = {**MetadataCatalog.get(NAME).as_dict(), **changes}
        del values["name"]
        return MetadataCatalog.get("changed").set(**values).name

    yield register
    MetadataCatalog.pop("changed", None)


def test_images_of_one_name_in_several_folders(dataset, tmp_path, changed_metadata):
    metadata = MetadataCatalog.get(NAME)
    content = json.loads(Path(metadata.panoptic_json).read_text())
    for number, annotation in enumerate(content["annotations"]):
        file = tmp_path / "truth" / f"camera{number}" / "0.png"
        file.parent.mkdir(parents=True)
        shutil.copy(Path(metadata.panoptic_root, annotation["file_name"]), file)
        annotation["file_name"] = f"camera{number}/0.png"
    panoptic_json = tmp_path / "truth.json"
    panoptic_json.write_text(json.dumps(content))
    name = changed_metadata(panoptic_json=str(panoptic_json), panoptic_root=str(tmp_path / "truth"))
    results = run(PanopticEvaluator(name, str(tmp_path)), dataset)
    assert results["panoptic_seg"]["PQ"] == 100
    assert len(list((tmp_path / "panoptic").glob("*/0.png"))) == len(dataset)


def test_predictions_are_never_written_over_the_truth(dataset, tmp_path, changed_metadata):
    metadata = MetadataCatalog.get(NAME)
    truth, content = tmp_path / "truth", json.loads(Path(metadata.panoptic_json).read_text())
    for number, annotation in enumerate(content["annotations"]):
        file = truth / str(number % 2) / f"{number // 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(metadata.panoptic_root, annotation["file_name"]), file)
        annotation["file_name"] = str(file)
    before = {file: file.read_bytes() for file in truth.rglob("*.png")}
    panoptic_json = tmp_path / "truth.json"
    panoptic_json.write_text(json.dumps(content))
    name = changed_metadata(panoptic_json=str(panoptic_json), panoptic_root="/elsewhere")

    def predict_nothing(record):
        ids, _ = perfect_output(record)["panoptic_seg"]
        return {"panoptic_seg": (0 * ids, [])}

    results = run(PanopticEvaluator(name, str(tmp_path / "out")), dataset, predict_nothing)
    assert results["panoptic_seg"]["PQ"] == 0
    assert {file: file.read_bytes() for file in truth.rglob("*.png")} == before
    assert len(list((tmp_path / "out" / "panoptic").glob("*.png"))) == len(dataset)

    MetadataCatalog.pop(name)
    name = changed_metadata(panoptic_root=str(tmp_path / "out" / "panoptic"))
    with pytest.raises(UserError, match="would overwrite them. Choose another OUTPUT_DIR"):
        PanopticEvaluator(name, str(tmp_path / "out"))


def test_truth_without_area_and_iscrowd(dataset, tmp_path, changed_metadata):
    content = json.loads(Path(MetadataCatalog.get(NAME).panoptic_json).read_text())
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["area"], segment["iscrowd"]
    panoptic_json = tmp_path / "truth.json"
    panoptic_json.write_text(json.dumps(content))
    name = changed_metadata(panoptic_json=str(panoptic_json))
    assert run(PanopticEvaluator(name, str(tmp_path)), dataset)["panoptic_seg"]["PQ"] == 100

    del content["categories"]
    panoptic_json.write_text(json.dumps(content))
    with pytest.raises(UserError, match="truth.json is not .* has no 'categories'"):
        PanopticEvaluator(name, str(tmp_path))


def test_box_only_model_is_explained(dataset, tmp_path):
    with pytest.raises(UserError, match="MODEL.MASK_ON.*PANOPTIC_ON"):
        run(PanopticEvaluator(NAME, str(tmp_path)), dataset, lambda record: {"instances": None})


def test_boxes_and_masks_of_things(dataset, tmp_path):
    """Stuff among the detections does not count, and neither do images without a prediction."""
    results = run(ThingsEvaluator(NAME, output_dir=str(tmp_path)), dataset[:3])
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert "AP-meadow" not in results["segm"]


def test_things_need_not_be_the_first_classes(dataset, tmp_path, changed_metadata):
    metadata = MetadataCatalog.get(NAME)

    def move(label):  # stuff comes first
        return (label + 2) % 7

    def make_output(record):
        output = perfect_output(record)
        output["instances"].pred_classes = move(output["instances"].pred_classes)
        return output

    ids = metadata.thing_dataset_id_to_contiguous_id
    name = changed_metadata(
        thing_dataset_id_to_contiguous_id={key: move(x) for key, x in ids.items()},
        thing_classes=[metadata.thing_classes[(x - 2) % 7] for x in range(7)],
    )
    things = ThingsEvaluator(name, output_dir=str(tmp_path))
    results = run(things, dataset, make_output)["bbox"]
    assert results["AP"] == pytest.approx(100)
    named = {key for key in results if key.startswith("AP-")}
    assert named == {f"AP-{x}" for x in metadata.thing_classes[:5]}


def test_masks_are_not_evaluated_without_true_masks(dataset, tmp_path, changed_metadata, caplog):
    content = json.loads(Path(MetadataCatalog.get(NAME).json_file).read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    json_file = tmp_path / "boxes.json"
    json_file.write_text(json.dumps(content))
    things = ThingsEvaluator(changed_metadata(json_file=str(json_file)), output_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING, "d2detr.evaluation.coco_evaluation"):
        assert set(run(things, dataset)) == {"bbox"}


def names(evaluator):
    return [type(x) for x in evaluator._evaluators]


def test_evaluators_of_a_panoptic_dataset(dataset, tiny_mask_cfg, tmp_path, monkeypatch):
    evaluator = build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))
    assert names(evaluator) == [ThingsEvaluator, PanopticEvaluator]
    assert set(run(evaluator, dataset)) == {"bbox", "segm", "panoptic_seg"}

    tiny_mask_cfg.TEST.PANOPTIC_API = True
    monkeypatch.setitem(sys.modules, "panopticapi", None)
    with pytest.raises(UserError, match="TEST.PANOPTIC_API needs panopticapi: pip install"):
        build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))
    monkeypatch.setitem(sys.modules, "panopticapi", ModuleType("panopticapi"))
    assert names(build_evaluator(tiny_mask_cfg, NAME, str(tmp_path)))[1] is COCOPanopticEvaluator
    tiny_mask_cfg.MODEL.DETR.TEST.PANOPTIC_ON = False
    assert names(build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))) == [ThingsEvaluator]


def test_panoptic_dataset_without_instance_annotations(dataset, tiny_mask_cfg, tmp_path):
    metadata = MetadataCatalog.get(NAME)
    json_file = metadata.json_file
    del metadata.json_file
    try:
        assert names(build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))) == [PanopticEvaluator]
        tiny_mask_cfg.MODEL.DETR.TEST.PANOPTIC_ON = False
        with pytest.raises(UserError, match="Nothing of dataset"):
            build_evaluator(tiny_mask_cfg, NAME, str(tmp_path))
    finally:
        metadata.json_file = json_file
