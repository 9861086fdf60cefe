import json

import pytest

from d2detr.measure.growth import draw_growth, format_growth, growth_report, measure_growth


def test_time_stands_beside_what_is_computed(tmp_path):
    settings = {
        "config_file": "configs/learning/detr.yaml",
        "opts": ("MODEL.DEVICE", "cpu", "MODEL.DETR.HIDDEN_DIM", "16"),
        "size": (64, 64),
    }
    grown = measure_growth(
        settings, queries=[5, 10], sizes=[(32, 64), (64, 64)], batches=[1, 2], rounds=1
    )
    assert list(grown) == ["queries", "image", "batch", "queries in the losses"]
    assert [sample.label for sample in grown["image"]] == ["32x64", "64x64"]
    first, second = grown["batch"]
    assert second.multiply_adds == pytest.approx(2 * first.multiply_adds, rel=1e-3)
    assert all(sample.seconds > 0 for samples in grown.values() for sample in samples)
    assert "time per query, beside the first" in format_growth(grown)
    draw_growth(grown, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000
    report = growth_report(settings, grown)
    assert json.loads(json.dumps(report))["grown"]["queries"][0]["value"] == 5
