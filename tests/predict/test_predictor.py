import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image

import d2detr
from d2detr.config import load_config
from d2detr.datasets.shapes import draw_shapes_image
from d2detr.errors import UserError
from d2detr.predict.inputs import Video, VideoWriter, find_images
from d2detr.predict.predictions import predict_images, predict_video

CLASSES = [{"id": 10 * i, "name": name} for i, name in enumerate("abcde", start=1)]


@pytest.fixture
def run(tiny_cfg, tmp_path):
    """The folder of a run: config, weights and class names."""
    torch.manual_seed(0)
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ("nowhere",)
    folder = tmp_path / "run"
    folder.mkdir()
    DetectionCheckpointer(build_model(tiny_cfg), str(folder)).save("model_best")
    (folder / "config.yaml").write_text(tiny_cfg.dump())
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        pixels = draw_shapes_image([3, 3, index], 96).image[: 96 - 20 * index]
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def assert_same(first, second):
    first, second = first["instances"], second["instances"]
    torch.testing.assert_close(first.pred_boxes.tensor, second.pred_boxes.tensor)
    torch.testing.assert_close(first.scores, second.scores)
    assert first.pred_classes.tolist() == second.pred_classes.tolist()


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("")])
def test_of_a_run_without_a_best_model_the_newest_checkpoint_is_taken(run, damage):
    os.rename(run / "model_best.pth", run / "model_0000004.pth")
    (run / "last_checkpoint").write_text("model_0000009.pth")
    (run / "model_0000009.pth").write_text("")
    damage(run / "last_checkpoint")
    taken = d2detr.Predictor(run).cfg.MODEL.WEIGHTS
    assert taken == str(run / "model_0000004.pth")


def test_many_images_of_one_size_are_read_and_passed_in_batches(run):
    predictor = d2detr.Predictor(run, score_threshold=0, batch_size=4)
    sizes = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    picture = draw_shapes_image([3, 3, 0], 64).image
    outputs = predictor([picture] * 10)
    assert sizes == [4, 4, 2] and len(outputs) == 10
    assert_same(outputs[9], predictor(picture))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_threshold": 1.5}, r"score threshold is 1.5; it must be in \[0, 1\]"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"device": "foo"}, "MODEL.DEVICE is 'foo', which is no device"),
    ],
)
def test_impossible_arguments_are_refused(run, arguments, message):
    with pytest.raises(UserError, match=message):
        d2detr.Predictor(run, **arguments)


def test_the_threshold_of_detectron2s_demo_counts(run, images):
    """What its demo.py sets; Detectron2's defaults, of all else, drop nothing."""
    cfg = load_config(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / "model_best.pth")])
    picture = np.array(Image.open(images / "0.png"))
    scores = DefaultPredictor(cfg)(picture)["instances"].scores
    assert len(scores) == 10
    threshold = scores.median().item()
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = threshold
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = threshold
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = threshold
    kept = DefaultPredictor(cfg)(picture)["instances"].scores
    assert torch.equal(kept, scores[scores >= threshold]) and len(kept) < 10


def test_paths_images_arrays_and_batches_give_the_same(run, images):
    predictor = d2detr.Predictor(run, score_threshold=0)
    paths = sorted(images.iterdir())
    alone = [predictor(str(path)) for path in paths]
    assert [len(x["instances"]) for x in alone] == [10, 10, 10]
    for path, expected in zip(paths, alone, strict=True):
        assert_same(predictor(path), expected)
        assert_same(predictor(Image.open(path)), expected)
        assert_same(predictor(np.asarray(Image.open(path))), expected)
    for got, expected in zip(predictor(paths), alone, strict=True):
        assert_same(got, expected)
    assert predictor([]) == []
    assert predictor.metadata.thing_classes == list("abcde")


def test_agrees_with_the_predictor_of_detectron2(run, images, tiny_cfg):
    tiny_cfg.MODEL.WEIGHTS = str(run / "model_best.pth")
    tiny_cfg.INPUT.MIN_SIZE_TEST = 0  # whose resize rounds differently
    pixels = np.asarray(Image.open(images / "1.png"))
    theirs = DefaultPredictor(tiny_cfg)(pixels[:, :, ::-1])["instances"]
    ours = d2detr.Predictor(tiny_cfg, score_threshold=0)(pixels)["instances"]
    order = theirs.scores.argsort(descending=True)
    torch.testing.assert_close(ours.scores, theirs.scores[order])
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor[order])


def test_threshold_leaves_the_best(run, images):
    every = d2detr.Predictor(run, score_threshold=0)(images / "0.png")["instances"]
    middle = float(every.scores[4])
    some = d2detr.Predictor(run, score_threshold=middle)(images / "0.png")["instances"]
    assert some.scores.tolist() == every.scores.tolist()[:5]


def test_panoptic_model_segments(tiny_mask_cfg, images, tmp_path):
    cfg = tiny_mask_cfg
    cfg.MODEL.DETR.TEST.PANOPTIC_THRESHOLD = 0.0  # an untrained model is sure of nothing
    cfg.MODEL.WEIGHTS = str(tmp_path / "panoptic.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    predictor = d2detr.Predictor(cfg, score_threshold=0.0)
    ids, segments = predictor(images / "0.png")["panoptic_seg"]
    assert ids.shape == (96, 96) and ids.max() == len(segments) > 0
    assert not predict_images(predictor, [str(images / "0.png")], tmp_path / "out")
    assert (tmp_path / "out" / "0.jpg").is_file()


def test_supervision_takes_the_output(run, images):
    supervision = pytest.importorskip("supervision")
    output = d2detr.Predictor(run, score_threshold=0)(images / "0.png")
    detections = supervision.Detections.from_detectron2(output)
    np.testing.assert_array_equal(detections.xyxy, output["instances"].pred_boxes.tensor)
    assert len(detections) == 10


def test_exif_rotation_is_applied_to_files_and_images(run, images, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(images / "2.png").save(tmp_path / "turned.jpg", exif=exif)
    predictor = d2detr.Predictor(run, score_threshold=0)
    output = predictor(tmp_path / "turned.jpg")
    assert output["instances"].image_size == (96, 56)
    assert_same(predictor(Image.open(tmp_path / "turned.jpg")), output)


def test_folder_is_predicted_and_bad_files_are_reported(run, images, tmp_path):
    os.truncate(images / "1.png", 500)
    (images / "notes.txt").write_text("no image")
    predictor = d2detr.Predictor(run, score_threshold=0)
    files = find_images(["/none.jpg", str(images)])
    output = tmp_path / "out"
    missing, broken = predict_images(predictor, files, output, batch_size=2)
    assert missing == "Image /none.jpg cannot be read: No such file or directory"
    assert f"{images / '1.png'} cannot be read" in broken
    assert sorted(x.name for x in output.glob("*.jpg")) == ["0.jpg", "2.jpg"]
    written = json.loads((output / "images.json").read_text())
    assert [os.path.basename(x["file_name"]) for x in written["images"]] == ["0.png", "2.png"]
    results = json.loads((output / "coco_instances_results.json").read_text())
    assert len(results) == 20
    assert {x["category_id"] for x in results} <= {10, 20, 30, 40, 50}
    best = predictor(images / "2.png")["instances"][0]
    first = next(x for x in results if x["image_id"] == 2)
    x, y, width, height = first["bbox"]
    torch.testing.assert_close(
        torch.tensor([[x, y, x + width, y + height]]), best.pred_boxes.tensor
    )


def test_pictures_of_equal_names_do_not_overwrite_each_other(run, images, tmp_path):
    (images / "more").mkdir()
    (images / "0.png").rename(images / "more" / "1.png")
    files = find_images([str(images)])
    predict_images(d2detr.Predictor(run), files, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 3


def test_no_picture_is_written_over_an_input_or_another_picture(run, images):
    for name in ("0.png", "1.png", "2.png"):
        Image.open(images / name).save(images / f"{name[0]}.jpg")
    (images / "single.jpg").write_bytes((images / "0.jpg").read_bytes())
    before = {x: x.read_bytes() for x in images.iterdir()}
    assert not predict_images(d2detr.Predictor(run), find_images([str(images)]), images)
    assert {x: x.read_bytes() for x in before} == before
    assert len(list(images.glob("*.jpg"))) == 4 + 7


def test_interrupted_prediction_keeps_what_it_found(run, images, tmp_path):
    predictor, output = d2detr.Predictor(run, score_threshold=0), tmp_path / "out"

    class Interrupted:
        categories, metadata = predictor.categories, predictor.metadata
        left = 2

        def __call__(self, batch):
            lines = (output / "coco_instances_results.jsonl").read_text().splitlines()
            assert [json.loads(line)["image"]["id"] for line in lines] == [1, 2][: 2 - self.left]
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return predictor(batch)

    with pytest.raises(KeyboardInterrupt):
        predict_images(Interrupted(), find_images([str(images)]), output)
    results = json.loads((output / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in results} == {1, 2}
    assert len(json.loads((output / "images.json").read_text())["images"]) == 2
    assert not (output / "coco_instances_results.jsonl").exists()


def test_pictures_are_the_same_in_every_run(run, images, tmp_path):
    predictor = d2detr.Predictor(run, score_threshold=0)
    for folder in ("a", "b"):
        predict_images(predictor, [str(images / "0.png")], tmp_path / folder)
    a, b = (np.asarray(Image.open(tmp_path / folder / "0.jpg")) for folder in ("a", "b"))
    np.testing.assert_array_equal(a, b)


def test_colours_are_those_of_the_dataset(run, forget_datasets):
    DatasetCatalog.register("nowhere", list)
    MetadataCatalog.get("nowhere").set(thing_classes=list("abcde"), thing_colors=[[1, 2, 3]] * 5)
    assert d2detr.Predictor(run).metadata.thing_colors == [[1, 2, 3]] * 5


def test_panoptic_run_without_its_dataset(tiny_mask_cfg, images, tmp_path):
    cfg, run = tiny_mask_cfg, tmp_path / "run"
    run.mkdir()
    DetectionCheckpointer(build_model(cfg), str(run)).save("model_final")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("nowhere",)
    cfg.MODEL.DETR.TEST.PANOPTIC_THRESHOLD = 0.0
    (run / "config.yaml").write_text(cfg.dump())
    names = enumerate("abcdefg")
    categories = [{"id": i, "name": name, "isthing": int(i in (1, 4))} for i, name in names]
    (run / "classes.json").write_text(json.dumps(categories))
    _, segments = d2detr.Predictor(run)(images / "0.png")["panoptic_seg"]
    assert segments
    assert all(x["isthing"] == (x["category_id"] in (1, 4)) for x in segments)

    nothing = ["MODEL.DETR.TEST.PANOPTIC_THRESHOLD", "1.0"]
    assert d2detr.Predictor(run, opts=nothing)(images / "0.png")["panoptic_seg"][1] == []


@pytest.mark.parametrize(
    "content, message",
    [
        ('[{"id": 1,\n', "classes.json is not JSON, or was cut off: .* at line 2"),
        ('{"cat": 1}', "classes.json does not hold the classes of a run"),
    ],
)
def test_broken_classes_of_a_run(run, content, message):
    (run / "classes.json").write_text(content)
    with pytest.raises(UserError, match=message):
        d2detr.Predictor(run)


def test_run_folder_runs_no_code(run):
    """As finetune.py and predict.py read it, too."""
    config = run / "config.yaml"
    config.write_text(config.read_text() + f"NAME: !!python/object/apply:os.mkdir ['{run}/marker']")
    with pytest.raises(UserError, match="reading it could run code"):
        d2detr.Predictor(run)
    assert not (run / "marker").exists()


def test_masks_of_low_scores_are_not_computed(tiny_mask_cfg, images, tmp_path, monkeypatch):
    cfg = tiny_mask_cfg
    cfg.MODEL.DETR.TEST.PANOPTIC_ON = False
    cfg.MODEL.WEIGHTS = str(tmp_path / "masks.pth")
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    predicted = []
    for threshold in (0.0, 1.0):
        predictor = d2detr.Predictor(cfg, score_threshold=threshold)
        predictor.model.mask_head.register_forward_hook(
            lambda head, args, masks: predicted.append(len(masks))
        )
        predictor(images / "0.png")
        assert bool(sum(predicted)) == (threshold == 0)
        predicted.clear()


def test_video(run, tmp_path):
    pytest.importorskip("cv2")
    writer = VideoWriter(tmp_path / "in.mp4", 10)
    for index in range(5):
        writer.write(draw_shapes_image([4, 4, index], 96).image)
    writer.close()
    predictor = d2detr.Predictor(run, score_threshold=0)
    predict_video(predictor, Video(str(tmp_path / "in.mp4")), tmp_path / "out", batch_size=2)
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {x["image_id"] for x in results} == {1, 2, 3, 4, 5}
    with pytest.raises(UserError, match="predictions.mp4 would be overwritten"):
        video = Video(str(tmp_path / "out" / "predictions.mp4"))
        predict_video(predictor, video, tmp_path / "out")
    frames = list(Video(str(tmp_path / "out" / "predictions.mp4")))
    assert len(frames) == 5
    assert frames[0].shape == (256, 256, 3)


def test_globs_and_single_files(images):
    assert find_images([str(images / "[01].png")]) == [str(images / x) for x in ("0.png", "1.png")]
    assert find_images([str(images / "2.png"), str(images)])[0] == str(images / "2.png")


@pytest.mark.parametrize(
    ("name", "message"), [("*.gif", "matches no file"), ("none.jpg", "does not exist")]
)
def test_inputs_that_are_not_there(images, name, message):
    with pytest.raises(UserError, match=message):
        find_images([str(images / name)])


def test_root_is_not_listed():
    with pytest.raises(UserError, match=r"The nearest folder above it that exists is /\.$"):
        find_images(["/none.jpg"])


def test_bad_input(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "no config.yaml"), ("none", "does not exist")):
        with pytest.raises(UserError, match=message):
            d2detr.Predictor(tmp_path / folder)
    with pytest.raises(UserError, match="uint8 in RGB"):
        d2detr.Predictor(run)(np.zeros((4, 4)))
    pytest.importorskip("cv2")
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(UserError, match="cannot be opened"):
        Video(str(tmp_path / "broken.mp4"))
