"""DETR's successors against their original implementations (see tests/reference)."""

from functools import cache

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2detr.checkpoint import adapt_weights
from d2detr.checkpoint.conditional import to_conditional
from d2detr.checkpoint.deformable import to_deformable
from d2detr.config import load_config
from d2detr.model_zoo import get_config_file
from d2detr.modeling import Targets
from tests.reference.family import DIRECTORY, checksum, family_state_dict

CONFIGS = {
    "conditional_r50": "conditional_detr_r50.yaml",
    "dab_r50": "dab_detr_r50.yaml",
    "dn_dab_r50": "dn_detr_r50.yaml",
    "deformable_r50": "deformable_detr_r50.yaml",
    "deformable_r50_refine": "deformable_detr_r50_refine.yaml",
    "deformable_r50_two_stage": "deformable_detr_r50_two_stage.yaml",
    "dino_r50_4scale": "dino_r50_4scale_12ep.yaml",
}
# Of the reference's logits, in float32, where it is more than 1e-3.
NOISE = {"deformable_r50_refine": 2e-3}
IMAGES = torch.load(DIRECTORY / "detr_r50.pt", weights_only=True)


@cache
def load_reference(name):
    return torch.load(DIRECTORY / f"{name}.pt", weights_only=True)


@pytest.fixture(scope="module", params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def weights(name):
    return family_state_dict(name)


@pytest.fixture(scope="module")
def model(name, weights):
    cfg = load_config(get_config_file(CONFIGS[name]))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 91
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 100
    cfg.MODEL.DETR.DROPOUT = 0.0
    cfg.MODEL.DETR.DENOISING.NUM_NOISED = 50
    cfg.MODEL.DETR.TEST.DETECTIONS_PER_IMAGE = 100
    model = build_model(cfg)
    adapted, report = adapt_weights(dict(weights), model)
    model.load_state_dict(adapted, strict=False)
    assert not report.random
    # The reference has the noise of float32 already: 1e-3 of the logits.
    return model.double()


def batch(case=None):
    inputs = [
        {"image": image.permute(2, 0, 1), "height": size[0], "width": size[1]}
        for image, size in zip(IMAGES["images"], IMAGES["orig_sizes"], strict=True)
    ]
    if case is not None:
        for record, target in zip(inputs, IMAGES["targets"][case], strict=True):
            instances = Instances(tuple(record["image"].shape[1:]))
            instances.gt_boxes = Boxes(target["boxes_xyxy_abs"])
            instances.gt_classes = target["labels"]
            record["instances"] = instances
    return inputs


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual.float(), expected, atol=atol, rtol=0)


@torch.no_grad()
def test_predictions_matching_and_detections(name, weights, model):
    reference = load_reference(name)
    model.eval()
    assert checksum(weights) == reference["state_dict_sha256"]
    encoded = model.encode(model.preprocess_image(batch()))
    outputs = model.heads(encoded.decoded.hs, encoded.decoded.reference)
    logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
    assert_close(logits[-1], reference["pred_logits"], NOISE.get(name, 1e-3))
    assert_close(logits[:-1, :, ::20], reference["aux_logits"], NOISE.get(name, 1e-3))
    assert_close(boxes, reference["pred_boxes"], 1e-4)

    for case, layers in reference["indices"].items():
        if reference.get("unstable", {}).get(case):
            continue  # costs so close that noise decides; the losses are compared below
        targets = targets_of(case)
        matching = model.criterion.matcher(logits, boxes, targets)
        for layer, images in enumerate(layers):
            assert_same_pairs(matching, layer, images, targets)

    for result, expected in zip(model(batch()), reference["detections"], strict=True):
        instances = result["instances"]
        size = max(instances.image_size)
        assert_close(instances.scores, expected["scores"], 1e-4)
        # Nearly equal scores may change places, and the last ones may fall out.
        distance = (instances.pred_boxes.tensor[:, None] - expected["boxes"]).abs().amax(-1)
        other = instances.pred_classes[:, None] != expected["labels"]
        found = distance.masked_fill(other, torch.inf).amin(0) < 1e-3 * size
        assert found[:95].all()


def targets_of(case):
    return Targets.from_instances([x["instances"] for x in batch(case)], 91, "cpu")


def assert_same_pairs(matching, layer, images, targets):
    query, target = matching.query[layer], matching.target[layer]
    actual = set(zip(query.tolist(), target.tolist(), strict=True))
    second = torch.tensor([[0], [targets.counts[0]]])
    pairs = torch.cat([images[0], images[1] + second], 1)
    assert actual == set(zip(*pairs.tolist(), strict=True)), layer


@torch.no_grad()
def test_memory_and_proposals(name, model):
    reference = load_reference(name)
    if "memory" not in reference:
        pytest.skip("not in the reference")
    encoded = model.eval().encode(model.preprocess_image(batch()))
    mask = encoded.memory.mask  # what padding holds is never read
    assert_close(encoded.memory.tokens[mask][..., :4], reference["memory"][mask], 1e-3)
    if "encoder" not in reference:
        return
    expected, proposed = reference["encoder"], encoded.decoded.proposed
    proposals = model.transformer.proposals
    assert_close(proposals.score(proposed.logits)[mask], expected["scores"][mask], 1e-3)
    assert torch.equal(proposed.index, expected["topk_indices"])
    for case, images in reference["indices_encoder"].items():
        targets = targets_of(case)
        group = proposals.as_group(proposed, targets, None)
        assert_close(group.boxes[0], expected["pred_boxes"], 1e-4)
        matching = model.criterion.matcher(group.logits, group.boxes, group.targets)
        assert_same_pairs(matching, 0, images, targets)


def give_stored_noise(model, stored, targets):
    """Let the denoising draw what the original drew."""
    slots = stored["image"] * 10**6 + stored["query"]
    order = slots.argsort()

    def draw(labels, boxes, negative):
        position = torch.cat([torch.arange(count) for count in targets.counts])
        rows = stored["groups"] * model.denoising.copies
        offset = stored["single_pad"] * torch.arange(rows)[:, None]
        wanted = targets.image * 10**6 + (offset + position)
        found = order[torch.searchsorted(slots[order], wanted.flatten())]
        return stored["noised_labels"][found], stored["noised_boxes"][found]

    model.denoising.draw = draw


@pytest.mark.parametrize("case", ["full", "one_empty", "all_empty"])
def test_losses_and_gradients(name, model, case):
    reference = load_reference(name)
    model.train().zero_grad()
    if case not in reference["train"]:
        pytest.skip("not in the reference")
    expected, inputs = reference["train"][case], batch(case)
    if model.denoising is not None:
        give_stored_noise(model, expected["denoising"], targets_of(case))
    with EventStorage() as storage:
        losses = model(inputs)
    total = sum(losses.values())
    total.backward()

    weighted = {our_name(key): value for key, value in expected["weighted"].items()}
    assert losses.keys() == weighted.keys()
    for key, value in weighted.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4, abs=1e-5), key
    assert total.item() == pytest.approx(expected["total"], rel=1e-4)
    assert storage.latest()["class_error"][0] == pytest.approx(expected["class_error"], abs=1e-4)

    total_norm = expected["total_grad_norm"]
    norms = [x.grad.norm() for x in model.parameters() if x.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(total_norm, rel=1e-3)
    parameters = dict(model.named_parameters())
    own_key = names_of(parameters)
    assert len(own_key.keys() & expected["grad_norm"].keys()) > 0.9 * len(expected["grad_norm"])
    for key, norm in expected["grad_norm"].items():
        if key not in expected["near_zero"] and key in own_key:
            gradient = parameters[own_key[key]].grad.norm().item()
            # The slope of a PReLU sums what all cells say of it, which nearly cancels out: between
            # float32 and float64 of one implementation lies as much.
            noise = 5e-6 * total_norm if key.endswith("activation.weight") else 0
            # What is sampled between cells has kinks, at which gradients jump with the noise.
            rel = 5e-3 if name.startswith("deformable") else 2e-3
            assert gradient == pytest.approx(norm, rel=rel, abs=noise), key


def names_of(parameters):
    """Our names of parameters by those of the original."""
    to_original = (
        to_deformable if "transformer.encoder.level_embed.weight" in parameters else to_conditional
    )
    values = {key: torch.tensor(i) for i, key in enumerate(parameters)}
    keys = list(parameters)
    return {key: keys[value] for key, value in to_original(values).items()}


def our_name(key):
    """The originals call the losses of denoising ``tgt_loss_ce_0``, of proposals ``_interm``."""
    if not key.startswith("tgt_"):
        return key.replace("_interm", "_enc")
    _, name, kind, *layer = key.split("_")
    return "_".join((name, kind, "dn", *layer))
