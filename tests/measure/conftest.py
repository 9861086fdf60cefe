import pytest

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.measure.timing import Memory


@pytest.fixture
def few_shapes(tmp_path, monkeypatch, forget_datasets):
    """The name of a dataset of 12 images, and no processes that would not know it."""
    monkeypatch.setattr("d2detr.measure.tasks.measure_memory", lambda *args: Memory(1.0, 2.0))
    register_shapes_split("twelve_shapes", tmp_path / "few", ShapesSplit(num_images=12, size=64))
    return "twelve_shapes"
