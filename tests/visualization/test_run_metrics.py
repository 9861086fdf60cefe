import json

import pytest

from d2detr.errors import UserError
from d2detr.visualization.run_metrics import read_run


def write(path, records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def test_resumed_run_is_one_line(tmp_path):
    """Lines of one writing are not in order; the resumed part replaces all that it repeats."""
    records = [
        {"iteration": 19, "total_loss": 9},
        {"iteration": 39, "total_loss": 8},
        {"iteration": 29, "bbox/AP": 1},
        {"iteration": 59, "total_loss": 7, "grad_norm": 1},
        {"iteration": 49, "bbox/AP": 2},
        {"iteration": 39, "total_loss": 6},  # resumed from iteration 30
        {"iteration": 59, "total_loss": 5},
    ]
    run = read_run(write(tmp_path / "metrics.json", records))
    loss, ap = run.training["total_loss"], run.validation[""]["bbox/AP"]
    assert (loss.x.tolist(), loss.y.tolist()) == ([19, 39, 59], [9, 6, 5])
    assert (ap.x.tolist(), ap.y.tolist()) == ([29], [1])
    assert "grad_norm" not in run.training


def test_validation_is_known_by_its_dataset(tmp_path):
    names = ("auto:my/data:val/loss_ce", "coco_val/class_error", "coco_val/bbox/AP", "rpn/num_pos")
    file = write(tmp_path / "metrics.json", [{"iteration": 1, **dict.fromkeys(names, 1.0)}])
    run = read_run(tmp_path)
    assert run.path == file
    assert run.validation["auto:my/data:val"].keys() == {"loss_ce"}
    assert run.validation["coco_val"].keys() == {"class_error", "bbox/AP"}
    assert run.training.keys() == {"rpn/num_pos"}


def test_original_counts_epochs(tmp_path):
    record = {
        "epoch": 3,
        "train_loss": 9.0,
        "train_loss_ce_0": 2.0,
        "test_cardinality_error_unscaled": 4.0,
        "test_coco_eval_bbox": [0.42, *[0.1] * 11],
        "n_parameters": 41_000_000,
    }
    write(tmp_path / "log.txt", [record])
    run = read_run(tmp_path)
    assert run.unit == "epoch"
    assert run.training["total_loss"].x.tolist() == [3.5]
    assert run.training["loss_ce_0"].y.tolist() == [2.0]
    assert run.validation[""]["cardinality_error"].x.tolist() == [4]
    assert run.validation[""]["bbox/AP"].y.tolist() == [42.0]


def test_run_that_still_writes(tmp_path):
    file = write(tmp_path / "metrics.json", [{"iteration": 19, "lr": 1}], '{"iteration": 39, "l')
    assert read_run(file).training["lr"].x.tolist() == [19]


def test_line_that_a_kill_cut_off_is_said(tmp_path, caplog):
    tail = '{"iteration": 39, "l{"iteration": 39, "lr": 1}\n{"iteration": 59, "lr": 1}\n'
    file = write(tmp_path / "metrics.json", [{"iteration": 19, "lr": 1}], tail)
    assert read_run(file).training["lr"].x.tolist() == [19, 59]
    assert "1 lines are not whole and left out (2)" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither metrics.json .* nor log.txt"),
        ("", "is empty: the run has logged nothing yet"),
        ('{"iteration": NaN, "lr": 1}\n', "holds no numbers yet"),
        ("[11/25 03:26:25 d2.engine]: Starting\n", "holds no metrics of a training"),
        ('{"iteration": 3, "note": "x"}\n', "holds no numbers yet"),
    ],
)
def test_folders_without_a_run(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path)


def test_number_of_hundreds_of_digits(tmp_path):
    file = write(tmp_path / "metrics.json", [{"iteration": 19, "loss_ce": 10**400}])
    assert read_run(file).training["loss_ce"].y.tolist() == [float("inf")]
