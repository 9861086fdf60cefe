"""Every model becomes a file that gives its results without this project."""

import importlib
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from d2detr.datasets.shapes import draw_shapes_image
from d2detr.errors import UserError
from d2detr.export import ExportedModel, run
from d2detr.export.exporting import RUNNER_FILE, choose_runtime, export_model, prove
from d2detr.export.network import ExportedDETR
from d2detr.export.predictor import ExportedPredictor
from d2detr.export.proof import BOUNDS, compare, make_cases, run_alone, run_pytorch
from d2detr.export.writing import example_inputs
from d2detr.predict import Predictor
from d2detr.predict.predictions import predict_images

PICTURE = draw_shapes_image([3, 3, 1], 96).image


@pytest.fixture
def build(tmp_path):
    """Builds a predictor of a config with random weights that tell objects apart."""

    def build_from(cfg, num_classes, score_threshold=0.0, isthing=None):
        torch.manual_seed(0)
        model = build_model(cfg)
        torch.nn.init.normal_(model.heads.class_embed.weight, std=0.5)
        torch.nn.init.normal_(model.heads.bbox_embed.layers[-1].weight, std=0.5)
        for name, parameter in model.named_parameters():
            if name.endswith(("q_linear.weight", "k_linear.weight")):
                # So that masks are unlike: a pixel's segment is no tie that rounding decides.
                torch.nn.init.normal_(parameter)
        DetectionCheckpointer(model, str(tmp_path)).save("model_final")
        categories = [{"id": 5 * i + 5, "name": f"class {i}"} for i in range(num_classes)]
        for category, value in zip(categories, isthing or (), strict=False):
            category["isthing"] = value
        (tmp_path / "classes.json").write_text(json.dumps(categories))
        written = cfg.clone()
        written.DATASETS.TRAIN = written.DATASETS.TEST = ("nowhere",)
        (tmp_path / "config.yaml").write_text(written.dump())
        return Predictor(tmp_path, score_threshold=score_threshold, device="cpu")

    return build_from


def choose(cfg, decoder):
    cfg.MODEL.DETR.DECODER = decoder.removeprefix("dn_")
    cfg.MODEL.DETR.CLASSIFICATION = "softmax" if decoder == "detr" else "focal"
    cfg.MODEL.DETR.DENOISING.ENABLED = decoder.startswith("dn_")
    cfg.MODEL.DETR.ENC_LAYERS, cfg.MODEL.DETR.DEC_LAYERS = 1, 2
    if decoder == "dino":
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.DETR.IN_FEATURES = ["res2", "res3"]
        cfg.MODEL.DETR.NUM_LEVELS, cfg.MODEL.DETR.ENCODER = 3, "deformable"
        cfg.MODEL.DETR.TWO_STAGE, cfg.MODEL.DETR.PROPOSAL_LEARNING = True, "chosen"


def assert_proven(predictor, path, precision="fp32"):
    differences, peak = prove(predictor, path, PICTURE, BOUNDS[precision])
    assert len(differences) == 4 and 20 < peak < 2000
    for name, difference in differences.items():
        assert difference.largest <= BOUNDS[precision], (name, difference)
    return differences


@pytest.mark.parametrize("decoder", ["detr", "dn_dab", "dino"])
def test_onnx_runs_alone_with_the_results_of_pytorch(tiny_cfg, build, tmp_path, decoder):
    choose(tiny_cfg, decoder)
    predictor = build(tiny_cfg, 5)
    path = export_model(predictor, tmp_path / "out")
    assert_proven(predictor, path)

    onnx.checker.check_model(str(path))
    facts = ExportedModel(path).facts
    assert facts["classes"] == [f"class {i}" for i in range(5)]
    assert facts["resize"] == [96, 1333] and facts["versions"]["torch"] in torch.__version__
    assert "HIDDEN_DIM: 32" in facts["config"]

    drawn = {}
    file = tmp_path / "a.png"
    importlib.import_module("PIL.Image").fromarray(PICTURE).save(file)
    for name, detector in {"checkpoint": predictor, "exported": ExportedPredictor(path)}.items():
        predict_images(detector, [str(file)], tmp_path / name)
        drawn[name] = (tmp_path / name / "a.jpg").read_bytes()
        results = json.loads((tmp_path / name / "coco_instances_results.json").read_text())
        assert {result["category_id"] for result in results} <= {5, 10, 15, 20, 25}
    assert drawn["checkpoint"] == drawn["exported"]

    command = [sys.executable, "-I", path.parent / RUNNER_FILE, path, file]
    process = subprocess.run(command, capture_output=True, text=True)
    expected = run(path, file)
    assert process.stdout.splitlines()[0].startswith(expected["names"][0]), process.stderr

    pytest.importorskip("openvino")
    choose_runtime(path, "openvino")
    assert ExportedModel(path).facts["runtime"] == "openvino"
    np.testing.assert_allclose(run(path, file)["boxes"], expected["boxes"], atol=1e-2)


@pytest.mark.parametrize(
    ("format", "decoder"), [("torch_export", "conditional"), ("torchscript", "dab")]
)
def test_formats_of_torch_run_without_this_project(tiny_cfg, build, tmp_path, format, decoder):
    choose(tiny_cfg, decoder)
    predictor = build(tiny_cfg, 5)
    assert_proven(predictor, export_model(predictor, tmp_path / "out", format=format))


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_masks_and_segments_are_computed_where_they_are_needed(
    tiny_mask_cfg, build, tmp_path, format
):
    choose(tiny_mask_cfg, "detr")
    isthing = [True] * 5 + [False] * 2
    scores = build(tiny_mask_cfg, 7, 0.0, isthing)(PICTURE)["instances"].scores
    threshold = float(scores[4:6].mean())  # which five of the ten queries reach
    tiny_mask_cfg.MODEL.DETR.TEST.PANOPTIC_THRESHOLD = threshold
    predictor = build(tiny_mask_cfg, 7, threshold, isthing)
    found = predictor(PICTURE)
    assert len(found["instances"]) == 5 and found["panoptic_seg"][1]
    path = export_model(predictor, tmp_path / "out", format=format)
    differences = assert_proven(predictor, path)
    assert all(difference.masks is not None for difference in differences.values())
    exported = ExportedPredictor(path)(PICTURE)
    assert len(exported["panoptic_seg"][1]) == len(found["panoptic_seg"][1])
    with pytest.raises(UserError, match="computes no masks below"):
        ExportedPredictor(path, 0.01)(PICTURE)


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp16"), ("torchscript", "bf16")])
def test_half_precision_stays_close(tiny_cfg, build, tmp_path, format, precision):
    choose(tiny_cfg, "detr")
    predictor = build(tiny_cfg, 5)
    path = export_model(predictor, tmp_path / "out", format=format, precision=precision)
    assert_proven(predictor, path, precision)
    assert ExportedModel(path).facts["precision"] == precision


def test_padding_of_a_batch_is_never_read(tiny_cfg, build):
    network = ExportedDETR(build(tiny_cfg, 5).model)
    images, sizes, output_sizes = example_inputs()
    expected = network(images, sizes, output_sizes)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, height:] = 255
        image[:, :, width:] = 255
    for ours, theirs in zip(network(images, sizes, output_sizes), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_proof_sees_what_is_wrong(tiny_cfg, build, tmp_path):
    predictor = build(tiny_cfg, 5)
    cases = make_cases(PICTURE, {"resize": [96, 200], "channels": "RGB"})
    case = cases["padded"]
    expected = run_pytorch(predictor.model, case)
    moved = {**expected, "boxes": expected["boxes"] + case.output_sizes.max() * 0.01}
    assert compare(expected, moved, case, 1e-3).box > 5e-3
    renamed = {**expected, "classes": (expected["classes"] + 1) % 5}
    assert compare(expected, renamed, case, 1e-3).largest > 1e-3
    assert compare(expected, expected, case, 1e-3).largest == 0
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"?")
    with pytest.raises(UserError, match="does not run"):
        run_alone(broken, cases)


def test_bfloat16_is_refused_where_nothing_runs_it(tiny_cfg, build, tmp_path):
    with pytest.raises(UserError, match="bfloat16"):
        export_model(build(tiny_cfg, 5), tmp_path / "out", precision="bf16")
    assert not (tmp_path / "out").exists()
