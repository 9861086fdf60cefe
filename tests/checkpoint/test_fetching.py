import pytest

from d2detr.checkpoint import fetch_weights
from d2detr.checkpoint.fetching import split_options
from d2detr.errors import UserError


@pytest.mark.parametrize(
    "value, path, options",
    [
        ("a.pth", "a.pth", {}),
        ("a.pth?partial=True", "a.pth", {"partial": True}),
        (
            "s3://a&b/c.pth?matching_heuristics=True&partial=False",
            "s3://a&b/c.pth",
            {"matching_heuristics": True, "partial": False},
        ),
        ("https://a/b?partial=True&token=c", "https://a/b?token=c", {"partial": True}),
        ("https://a/b?token=partial", "https://a/b?token=partial", {}),
    ],
)
def test_options_behind_a_path(value, path, options):
    assert split_options(value) == (path, options)


def test_option_that_is_neither_true_nor_false():
    with pytest.raises(UserError, match="partial is 'yes' in a.pth"):
        fetch_weights("a.pth?partial=yes")


def test_no_weights_is_no_error():
    assert fetch_weights("") == ""


def test_missing_file_names_the_nearest_folder_that_exists(tmp_path):
    (tmp_path / "there.pth").touch()
    path = tmp_path / "a" / "b" / "weights.pth"
    message = (
        rf"MODEL.WEIGHTS {path} does not exist; the folder {tmp_path} does, with there.pth in it"
    )
    with pytest.raises(UserError, match=message):
        fetch_weights(str(path))


def test_empty_file_and_folder_without_weights(tmp_path):
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UserError, match="is an empty file"):
        fetch_weights(str(tmp_path / "empty.pth"))
    with pytest.raises(UserError, match="looked for model.safetensors.*it has empty.pth"):
        fetch_weights(str(tmp_path))


def test_failed_download_is_one_message():
    with pytest.raises(UserError, match="http://localhost:9/detr.pth cannot be downloaded"):
        fetch_weights("http://localhost:9/detr.pth")
