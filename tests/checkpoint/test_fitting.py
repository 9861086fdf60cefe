import pytest
import torch

from d2detr.checkpoint.fitting import fit_tensor
from d2detr.checkpoint.load_report import LoadReport

HEAD = "heads.class_embed.weight"


def fit(key, value, own, class_names=None, own_class_names=None, extra_rows=("no-object",)):
    report = LoadReport("test", total=1)
    fitted = fit_tensor(
        key,
        value,
        own,
        report,
        class_names=class_names,
        own_class_names=own_class_names,
        extra_rows=extra_rows,
    )
    return fitted, report


def head(num_classes, offset=0):
    return torch.arange(num_classes + 1.0)[:, None].repeat(1, 2) + offset


@pytest.mark.parametrize("given, dog, person", [(91, 18, 1), (80, 16, 0), (250, 18, 1)])
def test_rows_go_by_name(given, dog, person):
    own = head(3, offset=-100)
    fitted, report = fit(HEAD, head(given), own, own_class_names=["unicorn", "Dog", "person"])
    assert fitted[:, 0].tolist() == [-100, dog, person, given]
    assert report.carried_classes == ["Dog", "person"]
    assert report.new_classes == ["unicorn"]


@pytest.mark.parametrize("given, own, thing", [(91, 80, 13), (250, 133, 13)])
def test_category_ids_become_contiguous_classes(given, own, thing):
    fitted, _ = fit(HEAD, head(given), head(own, offset=-1000))
    assert fitted[11, 0] == thing  # stop sign, after the unused id 12
    assert fitted[-1, 0] == given
    assert fitted.min() >= 0  # no class starts anew
    if own == 133:
        assert fitted[80, 0] == 92  # banner, the first stuff


def test_contiguous_classes_become_category_ids():
    fitted, _ = fit(HEAD, head(80), head(91, offset=-1000))
    assert fitted[18, 0] == 16
    assert fitted[12, 0] == -1000 + 12


def test_names_of_the_weights_count():
    names = ["cat", "dog", "hat"]
    fitted, _ = fit(HEAD, head(3), head(2, offset=-9), names, ["hat", "cat"])
    assert fitted[:, 0].tolist() == [2, 0, 3]


def test_as_many_classes_load_as_they_are():
    value = head(2)
    fitted, report = fit(HEAD, value, head(2, 5), ["a", "b"], ["b", "a"])
    assert fitted is value
    assert "names differ" in report.partial[HEAD]
    assert not fit(HEAD, value, head(2, 5), ["a", "b"], ["a", "b"])[1].partial


@pytest.mark.parametrize("names", [(None, ["dog", "cat"]), (["a"] * 5, None), (None, None)])
def test_no_object_carries_over_where_classes_are_unknown(names):
    fitted, report = fit(HEAD, head(5), head(2, offset=-9), *names)
    assert fitted[:, 0].tolist() == [-9, -8, 5]
    assert "no-object alone" in report.partial[HEAD]


@pytest.mark.parametrize("own, expected", [(2, [0, 1]), (4, [0, 1, 2, -6])])
def test_the_first_queries_are_taken(own, expected):
    key = "transformer.decoder.query_embed.weight"
    fitted, report = fit(key, head(2), head(own - 1, offset=-9))
    assert fitted[:, 0].tolist() == expected
    assert "queries" in report.partial[key]


@pytest.mark.parametrize("key", [HEAD, "input_proj.weight"])
def test_other_widths_are_left_out_with_the_reason(key):
    fitted, report = fit(key, torch.zeros(3, 256), torch.zeros(3, 64))
    assert fitted is None
    assert report.kept == {"(3, 256) in the weights, (3, 64) here": [key]}
