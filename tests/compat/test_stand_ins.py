import contextlib
import copy
import io
import sys

import numpy as np
import pytest
import torch

import d2detr  # noqa: F401 before anything of Detectron2

# isort: split
from detectron2.evaluation.fast_eval_api import COCOeval_opt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

extension = sys.modules.get("detectron2._C")
needs_stand_in = pytest.mark.skipif(
    extension is None or hasattr(extension, "__file__"),
    reason="this Detectron2 needs no stand-in for its compiled extension",
)


@needs_stand_in
def test_the_extension_has_what_was_compiled_and_nothing_else():
    assert hasattr(extension, "deform_conv_forward")
    assert not hasattr(extension, "no_such_operator")


@needs_stand_in
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_model_with_an_operator_of_the_extension_can_be_scripted():
    class Model(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return torch.ops.detectron2.nms_rotated(boxes, scores, 0.5)

    scripted = torch.jit.script(Model())
    with pytest.raises(RuntimeError, match="'nms_rotated' needs .* compiled extension"):
        scripted(torch.zeros(1, 5), torch.zeros(1))


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize(
    "parameters",
    [
        {"areaRng": [], "areaRngLbl": []},
        {"maxDets": [1]},
        {"maxDets": []},
        {"iouThrs": []},
        {"recThrs": []},
    ],
    ids=str,
)
def test_unusual_parameters_are_judged_as_by_pycocotools(iou_type, parameters):
    assert_same_verdict(iou_type, parameters=parameters)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_classes_may_be_ignored_as_by_pycocotools(iou_type):
    assert_same_verdict(iou_type, parameters={"useCats": 0})


@pytest.mark.parametrize("iou_type", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize(
    "field", ["area", "iscrowd", "ignore", "bbox", "segmentation", "num_keypoints", None]
)
def test_incomplete_ground_truth_is_judged_as_by_pycocotools(iou_type, field):
    assert_same_verdict(iou_type, without=field)


def assert_same_verdict(iou_type, without=None, parameters=None):
    verdicts = [verdict(x, iou_type, without, parameters or {}) for x in (COCOeval, COCOeval_opt)]
    expected, actual = verdicts
    if isinstance(expected, type):
        assert actual is expected
    else:
        assert isinstance(actual, dict), actual
        for name in ("precision", "recall"):
            np.testing.assert_allclose(actual[name], expected[name], atol=1e-12)


def verdict(evaluator, iou_type, without, parameters):
    """The evaluation's arrays, or the class of the error that it ends with."""
    box = [10.0, 10.0, 30.0, 20.0]
    truth = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "area": 600.0,
        "iscrowd": 0,
        "ignore": 0,
        "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]],
        "keypoints": [20, 20, 2] * 17,
        "num_keypoints": 17,
    }
    truth.pop(without, None)
    detection = {"image_id": 1, "category_id": 1, "score": 0.9}
    detection |= {
        "bbox": {"bbox": [12.0, 11.0, 28.0, 20.0]},
        "segm": {"segmentation": [[12, 11, 40, 11, 40, 31, 12, 31]]},
        "keypoints": {"keypoints": [21, 20, 2] * 17},
    }[iou_type]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": 50, "width": 60} for i in (1, 2)],
        "annotations": [truth],
        "categories": [{"id": i, "name": str(i)} for i in (1, 2)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        try:
            evaluation = evaluator(coco, load_results(coco, detection), iou_type)
            for name, value in parameters.items():
                setattr(evaluation.params, name, value)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        except Exception as error:
            return type(error)
    return evaluation.eval


def load_results(coco, detection):
    detection = copy.deepcopy(detection)
    if "segmentation" in detection:  # results hold masks, not polygons
        detection["segmentation"] = coco.annToRLE(detection)
    return coco.loadRes([detection])
