"""What several processes must agree on, and the gradients that they share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import d2detr  # noqa: F401 before anything of Detectron2

# isort: split
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import create_ddp_model, launch
from detectron2.modeling import build_model
from detectron2.utils import comm

from d2detr.checkpoint import load_weights, metadata
from d2detr.config import load_config
from d2detr.datasets.shapes import THING_CLASSES
from d2detr.engine import build_optimizer
from d2detr.engine.agreement import check_same_start
from d2detr.engine.preparation import prepare
from d2detr.engine.step import TrainingStep
from d2detr.errors import UserError
from d2detr.model_zoo import get_config_file
from tests.dataset_trees import coco, two_splits
from tests.modeling.inputs import make_input

TINY = ["MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", "5", "MODEL.DETR.DROPOUT", "0.0"]
# Objects of the images; those of the second process, the last four, are many more.
COUNTS = (0, 1, 1, 2, 9, 3, 12, 5)


@dataclass
class Step:
    losses: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def take_step(exact: bool) -> Step:
    """Losses and gradients of the global batch, of which each process takes its share."""
    cfg = load_config(get_config_file("learning/detr.yaml"), TINY)
    cfg.SOLVER.EXACT_GLOBAL_BATCH = exact
    torch.manual_seed(0)
    model = create_ddp_model(build_model(cfg))
    step = TrainingStep.from_config(cfg, model, build_optimizer(cfg, model))
    batch = [make_input(48, 64, count, seed=seed) for seed, count in enumerate(COUNTS)]
    for record in batch:
        record["instances"].gt_classes %= 5
    share = len(batch) // comm.get_world_size()
    losses = step.compute_gradients(batch[comm.get_rank() * share :][:share])
    gathered = comm.all_gather(losses)
    inner = getattr(model, "module", model)
    return Step(
        losses={name: torch.stack([x[name] for x in gathered]).mean() for name in losses},
        gradients={name: x.grad for name, x in inner.named_parameters() if x.requires_grad},
    )


def complaint(model: torch.nn.Module, start_iter: int = 0) -> str | None:
    try:
        check_same_start(model, start_iter)
    except UserError as error:
        return str(error)
    return None


def disagree() -> dict[str, str | None]:
    """What every process is told about one model after the other."""
    rank = comm.get_rank()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    complaints = {"nothing": complaint(model), "iteration": complaint(model, start_iter=7 * rank)}
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.roll(rank, dims=0))  # the same rows, in other places
    complaints["rows"] = complaint(model)
    extended = torch.nn.Sequential(*model, *[torch.nn.Linear(4, 4)] * rank)
    complaints["model"] = complaint(extended)
    return complaints


def take_class_rows(folder: str) -> dict[str, torch.Tensor]:
    """The rows of a file of weights, and those of a model that got them by its classes' names."""
    images, annotations = f"{folder}/train2017", f"{folder}/annotations/instances_train2017.json"
    register_coco_instances("rows", {}, annotations, images)
    cfg = load_config(get_config_file("learning/detr.yaml"), TINY)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("rows",), ()
    prepare(cfg)
    model = build_model(cfg)
    weights = model.state_dict()
    rows = weights["heads.class_embed.weight"][: len(THING_CLASSES)].clone()
    for key in ("heads.class_embed.weight", "heads.class_embed.bias"):
        weights[key] = torch.cat([weights[key][:1], weights[key]])  # of one class more, the first
    metadata.describe(weights, class_names=["other", *reversed(THING_CLASSES)])
    path = Path(folder, f"rank{comm.get_rank()}.pth")
    torch.save({"model": weights}, path)
    load_weights(model, str(path))
    return {"theirs": rows, "ours": model.heads.class_embed.weight[: len(rows)].detach()}


def work(folder: str) -> None:
    torch.set_num_threads(1)
    result = {
        "exact": take_step(exact=True),
        "original": take_step(exact=False),
        "complaints": disagree(),
        "rows": take_class_rows(folder),
    }
    torch.save(result, Path(folder, f"rank{comm.get_rank()}.pt"))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What two processes found, and the step of one process with all images."""
    folder = str(tmp_path_factory.mktemp("processes"))
    coco(Path(folder), two_splits(train=2, val=1))
    launch(work, 2, dist_url="auto", args=(folder,))
    ranks = [torch.load(f"{folder}/rank{i}.pt", weights_only=False) for i in range(2)]
    return ranks, take_step(exact=True)


def test_the_exact_global_batch_is_that_of_one_process(outcome):
    ranks, alone = outcome
    for rank in ranks:
        torch.testing.assert_close(rank["exact"].losses, alone.losses, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rank["exact"].gradients, alone.gradients, rtol=1e-3, atol=2e-5)


def test_by_default_only_the_classification_differs_as_in_the_original(outcome):
    (rank, _), alone = outcome
    for name, loss in rank["original"].losses.items():
        is_equal = np.isclose(loss, alone.losses[name], rtol=1e-5)
        assert is_equal == (not name.startswith("loss_ce")), name


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ("iteration", "rank 1 differs from rank 0 in 1 of 8 values, first in the iteration"),
        ("rows", "in 1 of 8 values, first in 0.weight"),
        ("model", "in 3 of 10 values"),
    ],
)
def test_processes_that_would_train_apart_are_told_all(outcome, difference, message):
    for rank in outcome[0]:
        assert message in rank["complaints"][difference]


def test_processes_that_agree_may_start(outcome):
    assert [rank["complaints"]["nothing"] for rank in outcome[0]] == [None, None]


def test_class_rows_go_to_the_same_classes_in_every_process(outcome):
    """Of a dataset that only the first process has read, with ``NUM_CLASSES`` given."""
    for rank in outcome[0]:
        assert torch.equal(rank["rows"]["ours"], rank["rows"]["theirs"].flip(0))
