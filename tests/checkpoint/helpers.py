"""A DETR that takes a fraction of a second, and what it predicts for two padded images."""

import re

import torch
from detectron2.modeling import build_model

from d2detr import model_zoo
from d2detr.checkpoint import adapt_weights, to_original


def small_cfg(num_classes=7, num_queries=10, depth=18):
    cfg = model_zoo.get_config("detr_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = num_queries
    cfg.MODEL.DETR.HIDDEN_DIM = 64
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 96
    cfg.MODEL.DETR.ENC_LAYERS = cfg.MODEL.DETR.DEC_LAYERS = 2
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


def small_detr(seed=None, class_names=None, **settings):
    """A model as it is initialised, or with every tensor drawn from ``seed``."""
    model = build_model(small_cfg(**settings)).eval()
    model.class_names = class_names
    if seed is not None:
        randomize(model, seed)
    return model


def build_member(config, seed=None, num_classes=7, **settings):
    """A small member of the family, as it is initialised, or with tensors drawn from ``seed``."""
    base = small_cfg(num_classes=num_classes, depth=50)
    cfg = model_zoo.get_config(config)
    for key in ("HIDDEN_DIM", "DIM_FEEDFORWARD", "ENC_LAYERS", "DEC_LAYERS", "NUM_CLASSES"):
        cfg.MODEL.DETR[key] = base.MODEL.DETR[key]
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 10
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.MODEL.DETR.update(settings)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    if seed is not None:
        randomize(model, seed)
        # References must stay within what every implementation's inverse sigmoid leaves as it is.
        for name, parameter in model.named_parameters():
            if name.endswith("bbox_embed.layers.2.weight"):
                parameter.data.mul_(0.3)
    return model


def save(model, path):
    """Write a model's weights; returns the path as text."""
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@torch.no_grad()
def randomize(model, seed):
    """Give every tensor, the statistics of norms too, values that change the outputs."""
    random = torch.Generator().manual_seed(seed)
    for key, x in model.state_dict().items():
        if x.is_floating_point():
            noise = torch.randn(x.shape, generator=random)
            if key.endswith("running_var"):
                noise = (0.2 * noise).exp()
            elif x.dim() > 1:
                noise *= 1.5 * x[0].numel() ** -0.5
            elif key.endswith("weight"):
                noise = 1 + 0.1 * noise
            else:
                noise *= 0.1
            x.copy_(noise)


def load(model, weights, **options):
    """Load weights that are in memory; returns the report."""
    adapted, report = adapt_weights(weights, model, **options)
    model.load_state_dict(adapted, strict=False)
    return report


def wrapper_state_dict(model, prefix):
    """What the wrapper saves, whose backbone is Detectron2's within a Joiner."""
    weights = {}
    for key, value in to_original(model.state_dict()).items():
        if key.startswith("backbone.0.body."):
            key = key.removeprefix("backbone.0.body.")
            key = key if key.startswith("layer") else f"stem.{key}"
            key = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
            key = re.sub(r"bn(\d)", r"conv\1.norm", key)
            key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            key = f"backbone.0.backbone.{key}"
        weights[prefix + key] = value
    weights["criterion.empty_weight"] = torch.ones(8)
    return weights


def padded_batch(model):
    random = torch.Generator().manual_seed(0)
    images = [
        torch.randint(256, (3, *size), generator=random, dtype=torch.uint8)
        for size in ((64, 96), (40, 70))
    ]
    return model.preprocess_image([{"image": x} for x in images])


@torch.no_grad()
def predict(model):
    decoded = model.encode(padded_batch(model)).decoded
    outputs = model.heads(decoded.hs, decoded.reference)
    return outputs["pred_logits"][-1], outputs["pred_boxes"][-1]


def assert_same_predictions(actual, expected, atol=1e-4):
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)
    logits, boxes = expected
    # A network that ignores its input would pass all of this.
    assert (logits[0] - logits[1]).abs().max() > 0.01
    assert (boxes[0] - boxes[1]).abs().max() > 0.001


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    for key, x in expected.items():
        assert torch.equal(actual[key], x), key
