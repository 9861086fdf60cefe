import pytest

from d2detr.benchmark.measure import Memory
from d2detr.data import ShapesSplit, register_shapes_split


@pytest.fixture
def few_shapes(tmp_path, monkeypatch, forget_datasets):
    """The name of a dataset of 12 images, and no processes that would not know it."""
    monkeypatch.setattr("d2detr.benchmark.tasks.measure_memory", lambda *args: Memory(1.0, 2.0))
    register_shapes_split("few_shapes", tmp_path / "few", ShapesSplit(num_images=12, size=64))
    return "few_shapes"
