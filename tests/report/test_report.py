import json
import math
import re
from html.parser import HTMLParser

import pytest

from d2detr.errors import UserError
from d2detr.report import write_report
from tests.report.conftest import DETECTIONS


class Page(HTMLParser):
    """What is in a page: texts, links, charts by title, and the data of galleries."""

    def __init__(self, path):
        super().__init__()
        self.links, self.text, self.charts, self.galleries = [], "", {}, []
        self._tag, self._title = ("", {}), ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self._tag = tag, attributes
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        if "data-chart" in attributes:
            self.charts[self._title] = json.loads(attributes["data-chart"])

    def handle_endtag(self, tag):
        self._tag = ("", {})

    def handle_data(self, data):
        tag, attributes = self._tag
        if attributes.get("type") == "application/json":
            self.galleries.append(json.loads(data))
        elif tag not in ("script", "style"):
            self.text += data
            if tag == "h3" and data.strip():
                self._title = data


def test_page_holds_all_that_the_run_tells(hostile_run):
    page = Page(write_report([hostile_run]))
    assert page.links == []  # pictures are within the script's data
    confusion = page.charts["Confusion of classes"]["data"][0]
    assert confusion["text"] == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert page.charts["Kinds of mistakes"]["data"][0]["y"] == [1, 0, 0, 0, 1]
    loss = page.charts["Total loss"]["data"][0]
    assert loss["x"] == [19, 39] and loss["y"] == [9.0, None]
    (gallery,) = page.galleries
    assert [picture["ap"] for picture in gallery["pictures"]] == [0, 50]
    assert all(x["source"].startswith("data:image/jpeg;base64,") for x in gallery["pictures"])
    assert gallery["worst"][0] == ["wrong_class", [1]]
    for text in ("total_loss is NaN or infinite 1 times", "Python  3", "0:00:20", "tiny: 2 images"):
        assert text in page.text


def test_a_class_name_cannot_break_out_of_the_page(hostile_run):
    name = "</script><img src=x onerror=alert(1)>"
    html = write_report([hostile_run]).read_text()
    assert name not in html and "<img src=x" not in html
    page = Page(hostile_run / "report.html")
    assert name in page.text
    assert page.galleries[0]["classes"] == [name, "dog"]


def test_ap_is_that_of_the_evaluator(few_shapes_results):
    name, folder, expected = few_shapes_results
    html = write_report([folder], dataset_name=name).read_text()
    row = re.search(r"<tr><td>run</td>(.*?)</tr>", html)[1]
    shown = re.findall(r"<td>([^<]*)</td>", row)
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert shown == [
        "–" if expected[key] != expected[key] else f"{expected[key]:.1f}" for key in keys
    ]


def test_runs_are_compared(tiny_coco, make_run, tmp_path):
    tiny_coco()
    folders = [make_run("tiny", name=name) for name in ("old", "new")]
    page = Page(write_report(folders, tmp_path / "both.html"))
    names = {trace.get("name") for trace in page.charts["Total loss"]["data"]}
    assert names == {"old: total_loss", "new: total_loss"}
    assert len(page.galleries) == 2


def test_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run: it has none of metrics.json, lo"):
        write_report([tmp_path])


@pytest.mark.parametrize(
    ("detections", "sentence"),
    [
        (None, "There is no evaluation yet"),
        ([], "Nothing at all was detected in the 2 images of tiny."),
        ([{**DETECTIONS[0], "image_id": 7}], "of other images than those of tiny"),
        ([{**DETECTIONS[0], "category_id": 7}], "category ids that tiny does not have, such as 7"),
        ([{"image_id": 1}], "coco_instances_results.json lacks bbox, category_id, score"),
        ([{**DETECTIONS[0], "score": math.nan}], "and score nan, which must be four finite"),
        ({"annotations": 3}, "coco_instances_results.json holds no list of results"),
    ],
)
def test_what_is_missing_is_said_in_the_page(tiny_coco, make_run, detections, sentence):
    tiny_coco()
    page = Page(write_report([make_run("tiny", detections)]))
    assert sentence in page.text
    assert "Total loss" in page.charts


def test_files_that_hold_something_else_are_said_once(tiny_coco, make_run):
    tiny_coco()
    run = make_run("tiny")
    (run / "recipe.json").write_text('{"SOLVER.BASE_LR": 1e-4}')
    (run / "inference" / "coco_instances_results.json").write_text('[{"image_id": 1, "cat')
    page = Page(write_report([run]))
    assert "recipe.json is no recipe, a list of choices with key, reason, value." in page.text
    assert "is not JSON, or was cut off" in page.text
    assert "There is no evaluation yet" not in page.text


def test_what_no_chart_can_show_is_said(tiny_coco, make_run):
    folder = tiny_coco(lambda content: content["annotations"].clear())
    for file in folder.glob("*.jpg"):
        file.write_text("not a picture")
    page = Page(write_report([make_run("tiny")]))
    assert "tiny has no objects, so that there is no AP." in page.text
    assert "2 images cannot be read, such as" in page.text


def test_infinite_time(tiny_coco, make_run):
    tiny_coco()
    run = make_run("tiny")
    (run / "metrics.json").write_text(
        '{"iteration": 9, "time": 0.5}\n{"iteration": 19, "time": Infinity}\n'
    )
    assert "0:00:05" in Page(write_report([run])).text


def test_run_whose_dataset_is_not_there(make_run):
    page = Page(write_report([make_run("never_registered")]))
    assert "'never_registered' is not registered" in page.text


def test_many_classes(tiny_coco, make_run):
    def edit(content):
        content["categories"] += [{"id": 3 + i, "name": f"class {i}"} for i in range(1198)]

    tiny_coco(edit)
    path = write_report([make_run("tiny")])
    page = Page(path)
    assert "Of 1200 classes the 40 with the most mistakes" in page.text
    assert len(page.charts["Confusion of classes"]["data"][0]["z"]) == 42
    assert path.stat().st_size < 6e6


def test_without_plotly(hostile_run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"needs plotly.*pip install 'd2detr\[report\]'"):
        write_report([hostile_run])
    assert not (hostile_run / "report.html").exists()
