import pytest

from d2detr.datasets import register_auto_dataset
from d2detr.datasets.catalog import load_dataset
from d2detr.doctor import check_dataset
from tests.dataset_trees import two_splits, voc
from tests.datasets.auto_checks import boxes_by_image, refuse, truth

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")


@pytest.fixture(scope="module")
def splits():
    return two_splits()


def annotation(folder, number):
    return folder / "Annotations" / f"img_1_{number:03d}.xml"


def add_box(path, *corners):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{x}</{key}>" for key, x in zip(keys, corners, strict=True))
    item = f"<object><name>star</name><bndbox>{box}</bndbox></object>"
    path.write_text(path.read_text().replace("</annotation>", f"{item}</annotation>"))


def test_boxes_from_an_index_to_the_same_one_are_degenerate(tmp_path, splits):
    voc(tmp_path, splits)
    for corners in ((9, 9, 9, 30), (9, 9, 30, 9), (30, 9, 9, 30), (9, 9, 10, 10)):
        add_box(annotation(tmp_path, 0), *corners)
    (record, *_) = load_dataset(register_auto_dataset(tmp_path)["train"])
    boxes = [x["bbox"] for x in record["annotations"][-4:]]
    assert boxes == [[8, 8, 0, 22], [8, 8, 22, 0], [29, 8, -21, 22], [8, 8, 2, 2]]
    (finding,) = (x for x in check_dataset(str(tmp_path)).findings if x.code == "degenerate_box")
    assert finding.count == 3


@pytest.mark.parametrize("value", ["nan", "inf", "1e999", "wide"])
def test_all_files_with_faults_are_counted(tmp_path, splits, value):
    voc(tmp_path, splits)
    for number in (0, 2):
        path = annotation(tmp_path, number)
        path.write_text(path.read_text().replace("<width>96", f"<width>{value}"))
    annotation(tmp_path, 1).write_text("<annotations/>")
    annotation(tmp_path, 3).write_text("<?xml version='1.0' encoding='none-such'?><annotation/>")
    refuse(
        tmp_path,
        "4 annotation files that cannot be used",
        f"{annotation(tmp_path, 0)}: <size/width> is '{value}', which is not a number",
        f"{annotation(tmp_path, 1)} holds <annotations> where the others hold <annotation>",
        "and 1 more",
    )


def test_lists_with_file_names(tmp_path, splits):
    voc(tmp_path, splits)
    for file in (tmp_path / "ImageSets" / "Main").iterdir():
        file.write_text("".join(f"{line}.jpg\n" for line in file.read_text().split()))
    names = register_auto_dataset(tmp_path)
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert boxes_by_image(names["val"]) == truth(splits["val"][0])


def test_lists_of_images_without_annotations(tmp_path, splits):
    voc(tmp_path, splits)
    annotation(tmp_path, 1).unlink()
    refuse(tmp_path, "train.txt names 1 of its 10 images, such as img_1_001, that have no .xml")
