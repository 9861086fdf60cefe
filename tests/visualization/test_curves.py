import json
import math

import numpy as np
import pytest
from PIL import Image

from d2detr.errors import UserError
from d2detr.visualization import plot_runs
from d2detr.visualization.curves import draw_runs, log_ticks, moving_average
from d2detr.visualization.run_metrics import read_run


def write_run(folder, records, tail=""):
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.json").write_text(lines + tail)
    return folder


def losses(iteration, **values):
    return {"iteration": iteration, "total_loss": 9.0 - iteration / 20, "lr": 1e-4, **values}


def draw_loss(folder, values):
    records = [{"iteration": i, "total_loss": value} for i, value in enumerate(values)]
    return draw_runs({"a": read_run(write_run(folder, records))}, panels=["loss"]).axes[0]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_draws_several_runs(tmp_path, suffix):
    done = write_run(tmp_path / "a", [losses(19, **{"bbox/AP": 3.0}), losses(39)])
    broken = write_run(tmp_path / "b", [losses(19), {"iteration": 39, "total_loss": math.nan}])
    output = tmp_path / "pictures" / f"curves.{suffix}"
    plot_runs([done, broken], output)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert output.read_bytes().startswith(start)
    if suffix == "png":
        assert np.asarray(Image.open(output)).std() > 10


def test_training_is_solid_and_validation_dashed(tmp_path):
    record = losses(19, **{"shapes_val/total_loss": 8.0, "loss_ce": 1.0, "loss_ce_0": 2.0})
    run = read_run(write_run(tmp_path / "a", [record, {**record, "iteration": 39}]))
    figure = draw_runs({"a": run}, panels=["loss"])
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]
    for layers, count in ((False, 1), (True, 2)):
        figure = draw_runs({"a": run}, panels=["class"], layers=layers)
        assert len(figure.axes[0].lines) == count


def test_scale_holds_negative_losses(tmp_path):
    bottom, top = draw_loss(tmp_path / "run", [-1.0, -3.0]).get_ylim()
    assert bottom < -3 and top == 0


def test_curve_without_a_finite_value(tmp_path):
    axes = draw_loss(tmp_path / "run", [math.nan, math.inf])
    assert [text.get_text() for text in axes.texts] == ["only NaN or infinite"]


def test_run_of_one_iteration_has_one_tick(tmp_path):
    axes = draw_loss(tmp_path / "run", [1.0])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels.count("0") == 1 and "-0" not in labels


def test_losses_of_denoising_and_proposals_come_last(tmp_path):
    names = ("loss_ce", "loss_ce_dn", "loss_ce_dn_0", "loss_ce_enc", "class_error", "loss_other")
    run = read_run(write_run(tmp_path / "run", [losses(19, **dict.fromkeys(names, 1.0))]))
    titles = [axes.get_title(loc="left") for axes in draw_runs({"a": run}).axes]
    assert titles[:2] == ["Total loss", "AP and PQ (%)"]
    assert titles.count("loss_other") == 1
    assert [x for x in titles if x.startswith("Class")] == [
        "Classification loss",
        "Class error (% of matched queries)",
        "Classification loss, denoising",
        "Classification loss, proposals",
    ]


def test_early_values_are_not_cut_off(tmp_path):
    values = [90.0, 80.0, *[25.0] * 8, *[5.0] * 30]
    assert draw_loss(tmp_path / "run", values).get_ylim()[1] > 90


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (9.0, 19.0, [5, 6, 7, 8, 9, 10, 15, 20, 30]),
        (1e-4, 1.2e-3, [5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]),
        (1e-4, 1e-4, [1e-4]),
        (3e-3, 2e4, [0.01, 0.1, 1, 10, 100, 1000, 10_000]),
    ],
)
def test_labels_of_a_logarithmic_axis(low, high, expected):
    assert log_ticks(low, high) == expected


def test_runs_in_iterations_and_epochs(tmp_path):
    ours = write_run(tmp_path / "a", [losses(20)])
    (tmp_path / "log.txt").write_text(json.dumps({"epoch": 0, "train_loss": 9.0}))
    with pytest.raises(UserError, match="counts iterations .* counts epochs: add --iterations-per"):
        plot_runs([ours, tmp_path], tmp_path / "curves.png")
    plot_runs([ours, tmp_path], tmp_path / "curves.svg", iterations_per_epoch=10)
    assert read_run(ours).in_epochs(10).training["total_loss"].x.tolist() == [2]


def test_unknown_format_is_said_before_anything_is_read():
    with pytest.raises(UserError, match="curves.gif must end in one of .png, .svg, .pdf"):
        plot_runs(["nowhere"], "curves.gif")


def test_moving_average_keeps_length_and_gaps():
    smooth = moving_average(np.array([1.0, np.nan, 3.0, 5.0]), 3)
    np.testing.assert_allclose(smooth, [1.0, np.nan, 4.0, 4.0])
