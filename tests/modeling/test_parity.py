"""The network against the original implementation's outputs (see tests/reference)."""

from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2detr.checkpoint import from_original
from d2detr.config import load_config
from d2detr.engine import build_optimizer
from d2detr.model_zoo import get_config_file
from d2detr.modeling import Targets
from tests.reference.weights import reference_state_dict

CASES = ["full", "one_empty", "all_empty"]
RECOMPUTED = ["MODEL.DETR.ACTIVATION_CHECKPOINTING", ("backbone", "encoder", "decoder")]


@pytest.fixture(scope="module")
def reference():
    return torch.load(Path(__file__).parents[1] / "reference" / "detr_r50.pt", weights_only=True)


@pytest.fixture(scope="module")
def original_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "original.pth"
    torch.save({"model": reference_state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def cfg(original_file):
    cfg = load_config(get_config_file("detr_r50.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 91
    cfg.MODEL.DETR.DROPOUT = 0.0
    cfg.MODEL.WEIGHTS = str(original_file)
    return cfg


def build(cfg, options=()):
    cfg = cfg.clone()
    cfg.merge_from_list(list(options))
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


@pytest.fixture
def model(cfg):
    return build(cfg)


def batch(reference, case=None):
    inputs = [
        {"image": image.permute(2, 0, 1), "height": size[0], "width": size[1]}
        for image, size in zip(reference["images"], reference["orig_sizes"], strict=True)
    ]
    if case is not None:
        for x, target in zip(inputs, reference["targets"][case], strict=True):
            x["instances"] = Instances(tuple(x["image"].shape[1:]))
            x["instances"].gt_boxes = Boxes(target["boxes_xyxy_abs"])
            x["instances"].gt_classes = target["labels"]
    return inputs


def predict_all_layers(model, inputs):
    with torch.no_grad():
        decoded = model.encode(model.preprocess_image(inputs)).decoded
        return model.heads(decoded.hs, decoded.reference)


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_outputs_of_every_decoder_layer(model, reference):
    outputs = predict_all_layers(model.eval(), batch(reference))
    assert_close(outputs["pred_logits"][-1], reference["pred_logits"], 2e-3)
    assert_close(outputs["pred_boxes"][-1], reference["pred_boxes"], 1e-4)
    assert_close(outputs["pred_logits"][:-1, :, ::20], reference["aux_logits"], 2e-3)
    assert_close(outputs["pred_boxes"][:-1], reference["aux_boxes"], 1e-4)


def test_memory(model, reference):
    with torch.no_grad():
        memory = model.eval().encode(model.preprocess_image(batch(reference))).memory.tokens
    memory = memory.transpose(1, 2).unflatten(2, (7, 8))
    assert_close(memory[:, ::16], reference["memory"], 1e-4)


def test_detections(model, reference):
    results = model.eval()(batch(reference))
    for result, expected, size in zip(
        results, reference["detections"], reference["orig_sizes"], strict=True
    ):
        instances = result["instances"]
        assert instances.image_size == size
        assert_close(instances.pred_boxes.tensor, expected["boxes"], 1e-4 * max(size))
        assert_close(instances.scores, expected["scores"], 1e-4)
        assert torch.equal(instances.pred_classes, expected["labels"])


def test_default_predictor_takes_original_weights(cfg, model, reference):
    cfg = cfg.clone()
    cfg.INPUT.MIN_SIZE_TEST = 0  # the image as it is
    image = reference["images"][0]
    predicted = DefaultPredictor(cfg)(image.flip(-1).numpy())["instances"]
    expected = model.eval()([{"image": image.permute(2, 0, 1)}])[0]["instances"]
    assert_close(predicted.pred_boxes.tensor, expected.pred_boxes.tensor, 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_matching_of_every_decoder_layer(model, reference, case):
    inputs = batch(reference, case)
    outputs = predict_all_layers(model.eval(), inputs)
    targets = Targets.from_instances([x["instances"] for x in inputs], 91, "cpu")
    matching = model.criterion.matcher(outputs["pred_logits"], outputs["pred_boxes"], targets)

    first_target = [0, targets.counts[0]]
    expected = [
        {
            (image, query, first_target[image] + target)
            for image, (queries, matched) in enumerate(layer)
            for query, target in zip(queries, matched, strict=True)
        }
        for layer in reference["indices"][case]
    ]
    actual = [
        set(zip(matching.image.tolist(), queries.tolist(), matched.tolist(), strict=True))
        for queries, matched in zip(matching.query, matching.target, strict=True)
    ]
    assert actual == expected


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_step(cfg, reference, case):
    check_training(cfg, build(cfg), reference, case)


def test_losses_gradients_and_step_when_activations_are_recomputed(cfg, reference):
    check_training(cfg, build(cfg, RECOMPUTED), reference, "full")


def check_training(cfg, model, reference, case):
    expected = reference["train"][case]
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    optimizer = build_optimizer(cfg, model)
    with EventStorage() as storage:
        losses = model.train()(batch(reference, case))
    total = sum(losses.values())
    total.backward()

    assert losses.keys() == reference["weight_dict"].keys()
    for name, loss in losses.items():
        weighted = reference["weight_dict"][name] * expected["losses"][name]
        assert loss.item() == pytest.approx(weighted, rel=1e-4), name
    assert total.item() == pytest.approx(expected["total"], rel=1e-4)
    for name in ("class_error", "cardinality_error"):
        assert storage.latest()[name][0] == pytest.approx(expected["losses"][name], abs=1e-4)

    parameters = dict(model.named_parameters())
    own_name = {name: next(iter(from_original({name: None}))) for name in expected["grad_norm"]}
    for name, norm in expected["grad_norm"].items():
        if "decoder.layers.0.self_attn.in_proj" not in name:
            actual = parameters[own_name[name]].grad.norm().item()
            assert actual == pytest.approx(norm, rel=2e-3), name
    frozen = {next(iter(from_original({name: None}))) for name in expected["frozen"]}
    assert {name for name, x in parameters.items() if not x.requires_grad} == frozen
    norms = [x.grad.norm() for x in parameters.values() if x.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(expected["total_grad_norm"], rel=1e-3)

    optimizer.step()
    for name, norm in expected["step_delta_norm"].items():
        if name in own_name and "decoder.layers.0.self_attn.in_proj" not in name:
            change = parameters[own_name[name]].detach() - before[own_name[name]]
            assert change.norm().item() == pytest.approx(norm, rel=2e-2), name
