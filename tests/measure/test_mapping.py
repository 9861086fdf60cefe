import pytest

from d2detr.errors import UserError
from d2detr.measure import Workload, format_report, run_benchmark
from d2detr.model_zoo import get_config_file

NO_FLIP = ("INPUT.RANDOM_FLIP", "none")


@pytest.fixture
def measure(few_shapes):
    def run(*opts, compare=""):
        opts = ("MODEL.DEVICE", "cpu", *opts)
        config = get_config_file("quickstart.yaml")
        workload = Workload(config, opts=opts, batch=4, dataset=few_shapes)
        return run_benchmark("data", workload, compare=compare, rounds=1, warmup=0)

    return run


def test_mapper_is_measured(measure):
    report = measure()
    assert report["contenders"]["d2detr"]["images_per_second"] > 0
    assert report["workload"]["padded_share"] == 0  # squares of one size
    assert "padded_share" in format_report(report)


@pytest.mark.parametrize("grouping", ["True", "False"])
def test_padding_of_different_sizes(measure, grouping):
    report = measure(
        *("INPUT.MIN_SIZE_TRAIN", "(50, 100)", "DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    )
    # At most what three small images beside a large one need.
    assert 0 < report["workload"]["padded_share"] < 9 / 16


def test_dataset_is_repeated_where_it_is_small(few_shapes):
    mask_model = get_config_file("quickstart_panoptic.yaml")
    options = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "")
    workload = Workload(mask_model, opts=options, batch=30, size=(300, 400), dataset=few_shapes)
    for task in ("train", "eval"):
        report = run_benchmark(task, workload, rounds=1, warmup=0)
        contender = report["contenders"]["d2detr"]
        seconds = contender["seconds"]["median"]
        assert contender["images_per_second"] == pytest.approx(30 / seconds)
    batch = workload.training_batch()
    assert len(batch) == 30
    assert all(x["instances"].image_size == x["image"].shape[-2:] for x in batch)


def test_precision_is_not_set_in_two_places():
    options = ("SOLVER.AMP.ENABLED", "True")
    with pytest.raises(UserError, match="measured with --amp"):
        Workload(get_config_file("quickstart.yaml"), opts=options)


def test_peer_makes_the_same_image(measure):
    pytest.importorskip("transformers", reason="needs transformers")
    report = measure(*NO_FLIP, compare="huggingface")
    ours, theirs = (x["first_result"] for x in report["contenders"].values())
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ((), "can neither crop nor flip"),
        ((*NO_FLIP, "MODEL.MASK_ON", "True"), "masks from polygons only"),
    ],
)
def test_what_the_peer_cannot_do(measure, opts, message):
    pytest.importorskip("transformers", reason="needs transformers")
    with pytest.raises(UserError, match=message):
        measure(*opts, compare="huggingface")
