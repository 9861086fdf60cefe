"""The repairs one by one, then Detectron2's own models end to end on top of them."""

import argparse
import contextlib
import copy
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import d2detr  # noqa: F401 (makes the repairs)
from d2detr import compat

# isort: split
import detectron2
import pycocotools.mask
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.common import MapDataset
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor, DefaultTrainer, default_setup, hooks
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode, RotatedBoxes, pairwise_iou_rotated
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZE = 64
extension = sys.modules.get("detectron2._C")
needs_stand_in = pytest.mark.skipif(
    extension is None or hasattr(extension, "__file__"),
    reason="this Detectron2 needs no stand-in for its compiled extension",
)


# ------------------------------------------------------------------------------------------------
# The missing and the half imported Detectron2
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_a_folder", [False, True])
def test_missing_detectron2_is_an_error_that_names_both_ways_to_get_it(
    monkeypatch, tmp_path, is_a_folder
):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    if is_a_folder:
        (tmp_path / "detectron2").mkdir()
        monkeypatch.delitem(sys.modules, "detectron2")
        monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ImportError) as error:
        compat.apply()
    assert "github.com/facebookresearch/detectron2" in str(error.value)
    assert "tools/setup_env.sh" in str(error.value)


def test_broken_detectron2_keeps_its_own_error(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError("No module named 'fvcore'", name="fvcore")

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="fvcore"):
        compat.apply()


def test_repairs_are_made_once():
    finders = list(sys.meta_path)
    ddp = sys.modules["detectron2.engine.defaults"].DistributedDataParallel
    compat.apply()
    assert sys.meta_path == finders
    assert sys.modules["detectron2.engine.defaults"].DistributedDataParallel is ddp


def test_repairs_work_after_other_imports_and_after_failed_ones():
    code = """
        import detectron2.config
        for _ in range(2):
            try:
                import detectron2.engine  # leaves some of its modules behind when it fails
            except (ImportError, AttributeError):
                pass
        import d2detr
        from detectron2.engine import DefaultTrainer, launch, hooks
        from detectron2.evaluation import COCOEvaluator
        import detectron2.data.common, detectron2.engine.defaults, sys
        from d2detr.compat import training
        launch = sys.modules["detectron2.engine.launch"]
        assert launch._distributed_worker is training.distributed_worker
        assert launch.run_main_func is not training.distributed_worker
        """
    run_python("-c", textwrap.dedent(code))


# ------------------------------------------------------------------------------------------------
# Libraries and stand-ins
# ------------------------------------------------------------------------------------------------


@needs_stand_in
@pytest.mark.parametrize("name", ["box_iou_rotated", "nms_rotated"])
def test_operators_that_need_the_extension_say_so(name):
    boxes = torch.zeros(1, 5)
    operators = {
        "box_iou_rotated": lambda: pairwise_iou_rotated(RotatedBoxes(boxes), RotatedBoxes(boxes)),
        "nms_rotated": lambda: detectron2.layers.nms_rotated(boxes, torch.zeros(1), 0.5),
    }
    with pytest.raises(NotImplementedError, match=f"'{name}' needs .* compiled extension"):
        operators[name]()


@needs_stand_in
def test_stand_in_looks_like_a_module_to_python():
    from detectron2 import _C

    assert find_spec("detectron2._C") is _C.__spec__
    assert not hasattr(_C, "__path__")
    pickle.dumps(np.add)  # searches all modules for the name


def test_default_setup_logs_the_environment(tmp_path):
    cfg = tiny_config(tmp_path)
    with quiet_loggers():
        default_setup(cfg, argparse.Namespace(config_file="", eval_only=True))
    assert "detectron2" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "config.yaml").exists()


def test_crops_with_extent():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    crop = T.ExtentTransform((0, 0, 4, 4), (4, 4))
    assert (crop.apply_image(image) == image).all()


def test_numpy_aliases(tmp_path):
    from detectron2.data.build import print_instances_class_histogram
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.evaluation import SemSegEvaluator
    from detectron2.structures.masks import polygons_to_bitmask

    print_instances_class_histogram([{"annotations": [{"category_id": 0}]}], ["thing"])
    assert polygons_to_bitmask([np.array([0.0, 0, 4, 0, 4, 4, 0, 4])], 8, 8).sum() == 16

    for folder in ("ImageSets/Main", "Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("0001\n0002\n")
    for name in ("0001", "0002"):
        (tmp_path / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>4</width><height>4</height></size></annotation>"
        )
    loaded = load_voc_instances(str(tmp_path), "val", ["thing"])
    assert [image["image_id"] for image in loaded] == ["0001", "0002"]

    truth = tmp_path / "truth.png"
    Image.fromarray(np.ones((4, 4), dtype=np.uint8)).save(truth)
    DatasetCatalog.register(
        f"stuff_{tmp_path}", lambda: [{"file_name": "image", "sem_seg_file_name": str(truth)}]
    )
    MetadataCatalog.get(f"stuff_{tmp_path}").set(stuff_classes=["a", "b"], ignore_label=255)
    evaluator = SemSegEvaluator(f"stuff_{tmp_path}", distributed=False)
    evaluator.reset()
    scores = torch.zeros(2, 4, 4)
    scores[1] = 1
    evaluator.process([{"file_name": "image"}], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100


def test_export_and_analysis_can_be_imported():
    from detectron2.export import TracingAdapter
    from detectron2.utils.analysis import FlopCountAnalysis

    assert TracingAdapter and FlopCountAnalysis


def test_model_zoo_works_and_lends_pkg_resources_to_nobody_else():
    from detectron2 import model_zoo

    name = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    assert model_zoo.get_checkpoint_url(name).endswith(".pkl")
    with contextlib.suppress(RuntimeError):  # the Python part alone may have no such files
        assert Path(model_zoo.get_config_file(name)).exists()
    with pytest.raises(RuntimeError, match="not available in Model Zoo|installed without"):
        model_zoo.get_config_file("no-such-file.yaml")
    lent = sys.modules.get("pkg_resources")
    assert lent is None or lent.__spec__, "the stand-in was left for others to import"


def test_only_the_deprecation_of_what_detectron2_scripts_is_silenced():
    code = """
import warnings

import torch

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.jit.script(torch.nn.Identity())
    own = len(caught)
    import d2detr
    import detectron2.modeling
    assert not [x.message for x in caught[own:] if "torch.jit.script" in str(x.message)]
    before = len(caught)
    torch.jit.script(torch.nn.Identity())
    assert len(caught) == before + own
"""
    run_python("-c", code)


# ------------------------------------------------------------------------------------------------
# Evaluation
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
def test_fast_evaluation_gives_what_pycocotools_gives(iou_type):
    from detectron2.evaluation.fast_eval_api import COCOeval_opt

    expected = evaluate_random_detections(COCOeval, iou_type)
    actual = evaluate_random_detections(COCOeval_opt, iou_type)
    assert expected.stats[0] > 0.02
    np.testing.assert_allclose(actual.stats, expected.stats, rtol=0, atol=1e-12)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(actual.eval[name], expected.eval[name], rtol=0, atol=1e-12)


def evaluate_random_detections(evaluator, iou_type):
    """Crowds, ties, missed and wrong classes, more detections than count, a class without any."""
    rng = np.random.default_rng(0)
    images = [{"id": i, "height": 200, "width": 220} for i in range(1, 16)]
    truth, detections = [], []

    def random_box():
        size = np.exp(rng.uniform(np.log(4), np.log(150), 2))
        corner = rng.random(2) * ((220, 200) - size)
        return [*corner.tolist(), *size.tolist()]

    def rle(box):
        x, y, w, h = box
        polygon = [x, y, x + w, y, x + w, y + 0.7 * h, x + 0.5 * w, y + h, x, y + h]
        return encode(pycocotools.mask.merge(pycocotools.mask.frPyObjects([polygon], 200, 220)))

    def jitter(values, scale):
        return (values + rng.normal(size=len(values)) * scale).tolist()

    def detect(image_id, category, box, keypoints):
        detection = {"image_id": image_id, "category_id": category}
        detection["score"] = round(float(rng.random()), 2)
        box = jitter(box, [0.1 * box[2], 0.1 * box[3], 0.1 * box[2], 0.1 * box[3]])
        if iou_type == "bbox":
            detection["bbox"] = box
        elif iou_type == "segm":
            detection["segmentation"] = rle(box)
        else:
            detection["keypoints"] = jitter(keypoints, 2)
        detections.append(detection)

    for image in images:
        for _ in range(rng.integers(0, 9)):
            box, category = random_box(), int(rng.integers(1, 4))
            points = np.column_stack([rng.random((17, 2)) * box[2:] + box[:2], rng.choice(3, 17)])
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box,
                    "area": 0.85 * box[2] * box[3],
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": rle(box),
                    "keypoints": points.ravel().tolist(),
                    "num_keypoints": int(rng.integers(0, 3)),
                }
            )
            for _ in range(rng.integers(0, 4)):
                category = category if rng.random() < 0.8 else 1
                detect(image["id"], category, box, points.ravel())
    for _ in range(150):
        detect(1, 1, random_box(), rng.random(51) * 200)

    coco = COCO()
    coco.dataset = {
        "images": images,
        "annotations": truth,
        "categories": [{"id": i, "name": str(i)} for i in range(1, 5)],
    }
    coco.createIndex()
    evaluation = evaluator(coco, coco.loadRes(detections), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def test_coco_evaluator_with_more_detections_per_image(tiny_dataset):
    results = evaluate_perfect_detections(tiny_dataset, max_dets_per_image=200)
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_coco_evaluator(tiny_dataset, capsys):
    results = evaluate_perfect_detections(tiny_dataset)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all" in capsys.readouterr().out


def evaluate_perfect_detections(name, **kwargs):
    from detectron2.structures import Boxes, Instances

    evaluator = COCOEvaluator(name, distributed=False, **kwargs)
    evaluator.reset()
    for image in DatasetCatalog.get(name):
        boxes = torch.tensor([a["bbox"] for a in image["annotations"]])
        instances = Instances(
            (SIZE, SIZE),
            pred_boxes=Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
            pred_classes=torch.tensor([a["category_id"] for a in image["annotations"]]),
            scores=torch.ones(len(boxes)),
            pred_masks=torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool),
        )
        for mask, (x, y, w, h) in zip(instances.pred_masks, boxes.int().tolist(), strict=True):
            mask[y : y + h, x : x + w] = True
        evaluator.process([image], [{"instances": instances}])
    return evaluator.evaluate()


# ------------------------------------------------------------------------------------------------
# Checkpoints
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written_by", ["numpy._core", "numpy.core"])
def test_checkpoints_may_hold_namespaces_and_numpy(tmp_path, written_by):
    model = torch.nn.Linear(2, 1)
    extra = {
        "args": argparse.Namespace(lr=1e-4, name="detr"),
        "ap": np.float64(42.0),
        "scores": np.arange(3, dtype=np.float32),
        "names": np.array(["a", "b"]),
        "flag": np.bool_(True),
    }
    path = tmp_path / "model.pth"
    torch.save({"model": {"weight": np.full((1, 2), 3.0, np.float32)}, **extra}, path)
    rename_in_pickle(path, {b"numpy._core.", b"numpy.core."}, written_by.encode() + b".")

    loaded = DetectionCheckpointer(model).load(str(path))
    assert model.weight.tolist() == [[3, 3]]
    assert loaded["args"] == extra["args"]
    assert loaded["ap"] == 42
    assert loaded["flag"]
    assert (loaded["scores"] == extra["scores"]).all()
    assert (loaded["names"] == extra["names"]).all()


def test_checkpoints_run_no_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "attacked"),)

    torch.save({"model": {}, "extra": Attack()}, tmp_path / "model.pth")
    with pytest.raises(pickle.UnpicklingError):
        DetectionCheckpointer(torch.nn.Linear(2, 1)).load(str(tmp_path / "model.pth"))
    assert not (tmp_path / "attacked").exists()


def rename_in_pickle(path, old_names, new_name):
    with zipfile.ZipFile(path) as archive:
        files = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in files.items():
            if info.filename.endswith("data.pkl"):
                assert any(name in content for name in old_names)
                for name in old_names:
                    content = content.replace(name, new_name)
            archive.writestr(info, content)


# ------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------


def test_mapper_may_return_none():
    dataset = MapDataset([0, 1, 2], lambda x: x or None)
    assert dataset[2] == 2
    assert dataset[0] in (1, 2)
    assert pickle.loads(pickle.dumps(dataset))[0] in (1, 2)


def test_autograd_profiler(tmp_path):
    trainer = argparse.Namespace(iter=0)
    with pytest.warns(UserWarning, match="AutogradProfiler has been deprecated"):
        hook = hooks.AutogradProfiler(lambda trainer: trainer.iter == 0, str(tmp_path))
    hook.trainer = trainer
    for trainer.iter in range(2):
        hook.before_step()
        torch.zeros(2).add(1)
        hook.after_step()
    traces = list(tmp_path.glob("**/*.json"))
    assert len(traces) == 1
    assert "aten::add" in traces[0].read_text()


def test_resumed_training_continues_the_optimizer_and_the_schedule(tmp_path, tiny_dataset):
    cfg = retinanet(tiny_config(tmp_path, tiny_dataset))
    first = train(cfg)
    saved = first._trainer.optimizer.state_dict()
    assert saved["state"]

    cfg.SOLVER.MAX_ITER = 4
    with quiet_loggers():
        resumed = Trainer(cfg)
        resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    loaded = resumed._trainer.optimizer.state_dict()
    for key, state in saved["state"].items():
        assert torch.equal(loaded["state"][key]["momentum_buffer"], state["momentum_buffer"])
    assert resumed.scheduler.last_epoch == first.scheduler.last_epoch == 2


def test_checkpoint_without_optimizer_is_resumed_with_a_warning(tmp_path, tiny_dataset, caplog):
    cfg = retinanet(tiny_config(tmp_path, tiny_dataset))
    train(cfg)
    path = tmp_path / "model_final.pth"
    checkpoint = torch.load(path)
    del checkpoint["trainer"]["_trainer"]  # as 0.6 writes it
    torch.save(checkpoint, path)

    with caplog.at_level(logging.WARNING, "d2detr.compat.training"):
        resumed = Trainer(cfg)
        resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 2
    assert "no optimizer state" in caplog.text


def test_two_processes_train_on_the_cpu(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("""
import atexit
from pathlib import Path

import d2detr
import torch
from detectron2.engine import SimpleTrainer, create_ddp_model, launch
from detectron2.utils import comm


class Model(torch.nn.Linear):
    def forward(self, batch):
        return {"loss": super().forward(batch).mean()}


def write_threads(file):
    file.write_text(str([path.read_text() for path in Path("/proc/self/task").glob("*/comm")]))


def main(folder):
    assert comm.get_world_size() == comm.get_local_size() == 2
    rank = comm.get_rank()
    atexit.register(write_threads, Path(folder, f"threads{rank}"))
    assert comm.get_local_rank() == rank
    assert comm.all_gather(rank) == [0, 1]
    model = create_ddp_model(Model(2, 1))
    batches = [torch.full((1, 2), float(rank))] * 2
    SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), 1.0)).train(0, 2)
    with open(f"{folder}/{rank}", "w") as file:
        file.write(str(model.module.weight.tolist()))


if __name__ == "__main__":
    import sys
    launch(main, 2, dist_url="auto", args=(sys.argv[1],))
""")
    run_python(str(script), str(tmp_path))
    weights = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert weights[0] == weights[1]
    for rank in range(2):
        assert "gloo" not in (tmp_path / f"threads{rank}").read_text()


# ------------------------------------------------------------------------------------------------
# Detectron2 as a whole
# ------------------------------------------------------------------------------------------------


def test_lazy_config_is_saved_loaded_and_instantiated(tmp_path):
    config = {"model": LazyCall(torch.nn.Linear)(in_features=2, out_features=3)}
    LazyConfig.save(LazyConfig.apply_overrides(_omegaconf(config), []), str(tmp_path / "c.yaml"))
    loaded = LazyConfig.load(str(tmp_path / "c.yaml"))
    assert instantiate(loaded.model).weight.shape == (3, 2)


def _omegaconf(config):
    from omegaconf import OmegaConf

    return OmegaConf.create(config, flags={"allow_objects": True})


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "mask_rcnn"])
def test_stock_model_trains_evaluates_predicts_and_is_drawn(tmp_path, tiny_dataset, name):
    pytest.importorskip("cv2", reason="Detectron2's Visualizer imports OpenCV")
    from detectron2.utils.visualizer import Visualizer

    models = {"faster_rcnn": faster_rcnn, "retinanet": retinanet, "mask_rcnn": mask_rcnn}
    cfg = models[name](tiny_config(tmp_path, tiny_dataset))
    trainer = train(cfg)
    tasks = ["bbox", "segm"] if name == "mask_rcnn" else ["bbox"]
    assert list(trainer._last_eval_results) == tasks
    assert all(np.isfinite(trainer._last_eval_results[task]["AP"]) for task in tasks)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    metrics = json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])
    assert np.isfinite(metrics["total_loss"])

    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    with quiet_loggers():
        instances = DefaultPredictor(cfg)(image)["instances"]
    assert instances.has("pred_masks") == (name == "mask_rcnn")
    visualizer = Visualizer(image, MetadataCatalog.get(tiny_dataset))
    drawn = visualizer.draw_instance_predictions(instances).get_image()
    assert drawn.shape == image.shape
    assert drawn.any()


# ------------------------------------------------------------------------------------------------
# Data, models, processes
# ------------------------------------------------------------------------------------------------


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def train(cfg):
    torch.manual_seed(0)
    with quiet_loggers():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
    return trainer


def tiny_config(output_dir, dataset=None):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    if dataset:
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (dataset,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE,)
    cfg.INPUT.MIN_SIZE_TEST = SIZE
    cfg.INPUT.CROP.ENABLED = True
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.BASE_LR = 1e-4  # so low that random weights go on detecting something
    return cfg


def retinanet(cfg):
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    sizes = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    return cfg


def faster_rcnn(cfg):
    levels = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.RPN.IN_FEATURES = levels
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = levels[:4]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 64
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    return cfg


def mask_rcnn(cfg):
    cfg = faster_rcnn(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    return cfg


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    """Three images of two rectangles each, as a registered COCO dataset."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for image_id in range(1, 4):
        pixels = rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"{image_id}.png", "height": SIZE, "width": SIZE}
        )
        for category, (x, y, w, h) in enumerate([(4, 4, 30, 40), (20, 16, 40, 44)], start=1):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h),
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    coco = {"images": images, "annotations": annotations}
    coco["categories"] = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    (folder / "coco.json").write_text(json.dumps(coco))
    name = f"tiny_{folder}"
    register_coco_instances(name, {}, str(folder / "coco.json"), str(folder))
    return name


def encode(rle):
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@contextlib.contextmanager
def quiet_loggers():
    """Detectron2's loggers write to every file that they were ever given."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [(copy.copy(logger.handlers), logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def run_python(*args):
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(d2detr.__file__).parents[1]),
    }
    process = subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
