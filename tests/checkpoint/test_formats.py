import pytest
import torch

from d2detr.checkpoint.formats import recognise_other_architecture
from d2detr.errors import UserError
from tests.checkpoint.helpers import load, small_detr

OTHERS = {
    "Mask R-CNN": "roi_heads.mask_head.mask_fcn1.weight",
    "Faster R-CNN": "roi_heads.box_predictor.cls_score.weight",
    "RetinaNet": "head.cls_subnet.0.weight",
    "FCOS": "head.ctrness.weight",
    "SSD": "head.classification_head.module_list.0.weight",
    "a model built on Deformable DETR": "pixel_decoder.layers.0.self_attn.sampling_offsets.weight",
    "RT-DETR": "decoder.dec_score_head.0.weight",
    "Mask2Former": "sem_seg_head.predictor.query_feat.weight",
    "YOLO": "model.0.conv.weight",
}


@pytest.fixture(scope="module")
def model():
    return small_detr()


@pytest.mark.parametrize("name, key", OTHERS.items())
def test_weights_of_another_architecture_are_refused_by_name(model, name, key):
    weights = {"backbone.bottom_up.res2.0.conv1.weight": torch.zeros(1), key: torch.zeros(1)}
    with pytest.raises(UserError, match=f"fit no parameter of this model: they are of {name}"):
        load(model, weights)


def test_model_built_on_detr_is_not_taken_for_detr(model):
    weights = {"backbone.0.body.conv1.weight": torch.zeros(1), OTHERS["Mask2Former"]: None}
    with pytest.raises(UserError, match="they are of Mask2Former"):
        load(model, weights)


def test_torchvision_detectors_are_named():
    from torchvision.models import detection

    options = {"weights": None, "weights_backbone": None}
    for build, name in (
        (detection.maskrcnn_resnet50_fpn, "Mask R-CNN"),
        (detection.fcos_resnet50_fpn, "FCOS"),
        (detection.retinanet_resnet50_fpn, "RetinaNet"),
        (detection.ssdlite320_mobilenet_v3_large, "SSD"),
    ):
        with torch.device("meta"):
            keys = build(**options).state_dict()
        assert recognise_other_architecture(keys) == name
