import os

import pytest
from PIL import Image

from d2detr.datasets.image_files import inspect_images

FORMATS = ["jpg", "png", "bmp", "webp"]


@pytest.fixture
def image_file(tmp_path):
    def write(name):
        Image.effect_noise((64, 48), 60).convert("RGB").save(tmp_path / name)
        return str(tmp_path / name)

    return write


def truncate(file_name, share):
    os.truncate(file_name, int(os.path.getsize(file_name) * share))


@pytest.mark.parametrize("num_decoded", [0, 2, 100])
def test_sound_files_pass(image_file, num_decoded):
    names = [image_file(f"a.{extension}") for extension in FORMATS]
    states = list(inspect_images(names, num_decoded))
    assert [state.size for state in states] == [(64, 48)] * 4
    assert not any(state.missing or state.problem for state in states)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("share", [0.7, 0.001])
def test_truncated_file_is_found(image_file, extension, share):
    file_name = image_file(f"cut.{extension}")
    truncate(file_name, share)
    whole, cut = inspect_images([image_file(f"whole.{extension}"), file_name])
    assert not whole.problem
    assert cut.problem


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_bytes_after_the_end_are_harmless(image_file, extension):
    file_name = image_file(f"a.{extension}")
    with open(file_name, "ab") as file:
        file.write(b"\x00" * 100)
    assert not next(inspect_images([file_name])).problem


@pytest.mark.parametrize("num_decoded", [0, 3])
def test_missing_files_folders_and_what_is_no_path(image_file, tmp_path, num_decoded):
    (tmp_path / "b.jpg").mkdir()
    names = [image_file("a.jpg"), str(tmp_path / "gone.jpg"), str(tmp_path / "b.jpg"), "\0"]
    states = list(inspect_images(names, num_decoded))
    assert [state.missing for state in states] == [False, True, False, False]
    assert [bool(state.problem) for state in states] == [False, False, True, True]


def test_remote_files_are_not_opened():
    (state,) = inspect_images(["s3://bucket/a.jpg"], num_decoded=1)
    assert not state.missing
    assert state.size is None


def test_as_many_as_asked_are_decoded_all_over_the_files(image_file):
    name = image_file("a.png")
    with open(name, "r+b") as file:
        file.seek(os.path.getsize(name) // 2)
        file.write(b"damage inside")
    for num_decoded, found in ((0, 0), (3, 3), (1000, 40)):
        states = list(inspect_images([name] * 40, num_decoded))
        assert sum(state.problem is not None for state in states) == found
