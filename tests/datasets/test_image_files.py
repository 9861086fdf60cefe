import logging
import os

import pytest
from PIL import Image

from d2detr.datasets import image_files
from d2detr.datasets.image_files import check_image_files
from d2detr.errors import UserError

FORMATS = ["jpg", "png", "bmp", "webp"]


@pytest.fixture
def image_file(tmp_path):
    def write(name):
        Image.effect_noise((64, 48), 60).convert("RGB").save(tmp_path / name)
        return str(tmp_path / name)

    return write


def truncate(file_name, share):
    os.truncate(file_name, int(os.path.getsize(file_name) * share))


def test_sound_files_pass(image_file):
    check_image_files("mine", [image_file(f"a.{extension}") for extension in FORMATS])


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("share", [0.7, 0.001])
def test_truncated_file_is_named(image_file, extension, share):
    file_name = image_file(f"cut.{extension}")
    truncate(file_name, share)
    with pytest.raises(UserError, match=rf"'mine': 1 of its 2 .*cannot be read: {file_name} \("):
        check_image_files("mine", [image_file(f"whole.{extension}"), file_name])


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_bytes_after_the_end_are_harmless(image_file, extension):
    file_name = image_file(f"a.{extension}")
    with open(file_name, "ab") as file:
        file.write(b"\x00" * 100)
    check_image_files("mine", [file_name])


def test_missing_files_are_counted(image_file, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "/some/where")
    names = [image_file("a.jpg"), str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]
    with pytest.raises(UserError, match=rf"lacks 2 of its 3 .*{names[1]}.*which holds a.jpg") as e:
        check_image_files("mine", names)
    assert "DETECTRON2_DATASETS" not in str(e.value)


def test_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UserError, match="a.jpg"):
        check_image_files("mine", [str(tmp_path / "a.jpg")])


def test_at_most_five_are_listed(image_file):
    names = [image_file(f"{index}.jpg") for index in range(8)]
    for name in names:
        truncate(name, 0.5)
    with pytest.raises(UserError, match="8 of its 8") as caught:
        check_image_files("mine", names)
    assert [name in str(caught.value) for name in names] == [True] * 5 + [False] * 3


def test_remote_files_are_not_opened():
    check_image_files("mine", ["s3://bucket/a.jpg"])


def test_progress_is_logged(image_file, monkeypatch, caplog):
    monkeypatch.setattr(image_files, "SECONDS_PER_LOG_LINE", 0)
    monkeypatch.setattr(image_files, "FILES_PER_TASK", 2)
    with caplog.at_level(logging.INFO, logger=image_files.__name__):
        check_image_files("mine", [image_file(f"{index}.jpg") for index in range(6)])
    assert "4 of 6" in caplog.text
