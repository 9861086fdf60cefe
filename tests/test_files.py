import pytest

from d2detr.errors import UserError
from d2detr.files import open_replacing, remove_partial, replacing, replacing_in, write_json


def test_what_is_not_whole_does_not_take_its_place(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("old")
    with pytest.raises(RuntimeError), open_replacing(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["model.pth"]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.suffix == ".png"
    assert path.read_text() == "new"


def test_full_disk_is_one_sentence(tmp_path, full_disk):
    path = tmp_path / "results.json"
    write_json(path, [1])
    with full_disk(), pytest.raises(UserError, match=f"{path} cannot be written: File too large"):
        write_json(path, list(range(10_000)))
    assert path.read_text() == "[1]"
    assert [x.name for x in tmp_path.iterdir()] == ["results.json"]


def test_folders_appear_whole_and_their_files_one_by_one(tmp_path):
    with replacing(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "weights").write_text("x")
        assert not (tmp_path / "folder").exists()
    (tmp_path / "folder" / "other").write_text("y")
    with replacing_in(tmp_path / "folder") as partial:
        (partial / "weights").write_text("z")
    files = {x.name: x.read_text() for x in (tmp_path / "folder").iterdir()}
    assert files == {"weights": "z", "other": "y"}


def test_what_a_killed_process_left_is_removed(tmp_path):
    names = []
    with replacing(tmp_path / "model.pth") as partial:
        partial.write_text("half")
        names.append(partial.name)
    (tmp_path / names[0]).write_text("half")
    remove_partial(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["model.pth"]
