"""A YAML config and the LazyConfig of its name are one model and one training."""

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.engine import SimpleTrainer, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import ResNet, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from detectron2.solver import build_lr_scheduler, build_optimizer
from omegaconf import OmegaConf

from d2detr import lazy as lazy_module
from d2detr import model_zoo
from d2detr.data import build_dataset_mapper
from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.errors import UserError
from d2detr.lazy import lazy_config
from d2detr.modeling import DETR

NAMES = model_zoo.names()


def optimizer_facts(optimizer):
    groups = [(x["lr"], x["weight_decay"], len(x["params"])) for x in optimizer.param_groups]
    return type(optimizer), groups


@pytest.mark.parametrize("name", NAMES)
def test_every_yaml_config_and_its_lazy_config_describe_the_same(name):
    yaml, lazy = model_zoo.get_config(name), model_zoo.get_config(f"{name}.py")
    assert instantiate(lazy.config) == yaml
    with torch.device("meta"):
        ours, theirs = instantiate(lazy.model), DETR(yaml)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == shapes
    lazy.optimizer.params.model = ours
    assert optimizer_facts(instantiate(lazy.optimizer)) == optimizer_facts(
        build_optimizer(yaml, theirs)
    )
    reference = build_lr_scheduler(yaml, build_optimizer(yaml, theirs))
    schedule, max_iter = instantiate(lazy.lr_multiplier), yaml.SOLVER.MAX_ITER
    assert lazy.train.max_iter == max_iter
    for iteration in {0, 1, 100, *yaml.SOLVER.STEPS, *(x - 1 for x in yaml.SOLVER.STEPS)}:
        assert schedule(iteration / max_iter) == reference._multiplier(iteration / max_iter)
    for is_train, loader in ((True, lazy.dataloader.train), (False, lazy.dataloader.test)):
        mapper = build_dataset_mapper(yaml, is_train)
        assert str(instantiate(loader.mapper).augmentations) == str(mapper.augmentations)
    loader, solver = lazy.dataloader.train, yaml.SOLVER
    assert (loader.total_batch_size, tuple(loader.dataset.names)) == (
        solver.IMS_PER_BATCH,
        yaml.DATASETS.TRAIN,
    )
    weights = yaml.MODEL.WEIGHTS or yaml.MODEL.DETR.FROZEN_WEIGHTS
    assert lazy.train.init_checkpoint == weights


def small():
    lazy = model_zoo.get_config("quickstart.py")
    lazy.config.opts = ["MODEL.DETR.NUM_CLASSES", 5]
    lazy.train.device = "cpu"
    return lazy


def test_outputs_are_those_of_the_yaml_config():
    yaml = model_zoo.get_config("quickstart")
    yaml.merge_from_list(["MODEL.DETR.NUM_CLASSES", 5, "MODEL.DEVICE", "cpu"])
    inputs = [{"image": torch.randint(0, 256, (3, 64, 80))}]
    results = []
    for build in (lambda: build_model(yaml), lambda: instantiate(small().model)):
        torch.manual_seed(3)
        results.append(build().eval()(inputs)[0]["instances"])
    first, second = results
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
    assert torch.equal(first.scores, second.scores)


def test_parts_and_keys_can_be_replaced():
    lazy = small()
    lazy.config.opts += ["MODEL.DETR.ENC_LAYERS", 1, "MODEL.DETR.IN_FEATURES", ["res3"]]
    lazy.config.opts += ["MODEL.DETR.NUM_LEVELS", 1]
    lazy.model.score_threshold = 0.25
    lazy.model.backbone = LazyCall(ResNet)(
        stem=LazyCall(BasicStem)(in_channels=3, out_channels=8, norm="BN"),
        stages=[
            LazyCall(ResNet.make_stage)(
                block_class=BasicBlock, num_blocks=1, in_channels=a, out_channels=b, norm="BN"
            )
            for a, b in ((8, 16), (16, 24))
        ],
        out_features=["res3"],
    )
    model = instantiate(lazy.model)
    assert model.input_proj.in_channels == 24
    assert len(model.transformer.encoder.layers) == 1
    assert model.score_threshold == 0.25


def override(lazy, *overrides):
    """As lazyconfig_train_net.py takes them from the command line."""
    LazyConfig.apply_overrides(lazy, list(overrides))
    lazy.optimizer.params.model = instantiate(lazy.model)
    return instantiate(lazy.optimizer)


def test_learning_rate_and_decay_are_overridden_as_in_other_lazy_configs():
    usual = override(small(), "config.opts=[MODEL.DETR.NUM_CLASSES,5]")
    ours = override(small(), "optimizer.lr=0.5", "optimizer.weight_decay=0.25")
    rates = [[group["lr"] for group in x.param_groups] for x in (usual, ours)]
    assert max(rates[1]) / min(rates[1]) == pytest.approx(max(rates[0]) / min(rates[0]))
    assert 0.5 in rates[1]
    assert {group["weight_decay"] for group in ours.param_groups} == {0.25}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model.num_queries=50", r"model.num_queries is not a whole argument.*ENC_LAYERS,3"),
        ("model.transformer.encoder.num_layers=3", "model.transformer is not a whole argument"),
        ("optimizer.betas=[0.9,0.99]", "optimizer.betas has no effect"),
        ("optimizer.params.base_lr=0.1", "optimizer.params.base_lr has no effect"),
        ("config.opts=[SOLVER.MAX_ITER,9]", "SOLVER.MAX_ITER has no effect here; set train.max"),
        ("config.opts=[SOLVER.EMA_DECAY,0.9]", "only d2detr's own trainer reads it"),
    ],
)
def test_what_would_have_no_effect_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        override(small(), line)


def test_keys_that_are_held_elsewhere_are_there():
    lazy = model_zoo.get_config("detr_r50.py")
    for place in lazy_module._ELSEWHERE.values():
        assert OmegaConf.select(lazy, place, default="nowhere") != "nowhere", place


def train(lazy, *, resume=False):
    """What Detectron2's lazyconfig_train_net.py does, in its order."""
    model = instantiate(lazy.model)
    lazy.optimizer.params.model = model
    optimizer = instantiate(lazy.optimizer)
    trainer = SimpleTrainer(model, instantiate(lazy.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(
        model, lazy.train.output_dir, optimizer=optimizer, trainer=trainer
    )
    schedule = hooks.LRScheduler(scheduler=instantiate(lazy.lr_multiplier))
    saving = hooks.PeriodicCheckpointer(checkpointer, **lazy.train.checkpointer)
    trainer.register_hooks([schedule, saving])
    checkpointer.resume_or_load(lazy.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume else 0
    trainer.train(start, lazy.train.max_iter)
    return start, model


@pytest.fixture
def shapes(tmp_path, forget_datasets):
    register_shapes_split("lazy_shapes", tmp_path / "shapes", ShapesSplit(num_images=8, size=64))
    return "lazy_shapes"


def test_it_trains_resumes_and_is_evaluated(tmp_path, shapes):
    lazy = small()
    overrides = {
        "train.max_iter": 2,
        "train.output_dir": str(tmp_path),
        "dataloader.train.total_batch_size": 2,
        "dataloader.train.num_workers": 0,
        "dataloader.train.dataset.names": f"[{shapes}]",
        "dataloader.test.num_workers": 0,
        "dataloader.test.dataset.names": shapes,
    }
    LazyConfig.apply_overrides(lazy, [f"{key}={value}" for key, value in overrides.items()])
    LazyConfig.save(lazy, str(tmp_path / "config.yaml"))
    assert train(lazy)[0] == 0
    lazy = LazyConfig.load(str(tmp_path / "config.yaml"))  # what a run leaves can be read again
    lazy.train.max_iter = 3
    start, model = train(lazy, resume=True)
    assert start == 2
    loaders = lazy.dataloader
    results = inference_on_dataset(model, instantiate(loaders.test), instantiate(loaders.evaluator))
    assert np.isfinite(results["bbox"]["AP"])
    assert (tmp_path / "coco_instances_results.json").is_file()


def test_other_schedules_are_refused(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("SOLVER:\n  LR_SCHEDULER_NAME: WarmupCosineLR\n")
    with pytest.raises(UserError, match="WarmupMultiStepLR"):
        lazy_config(str(config))
