"""The page in a real browser."""

import pytest

from d2detr.report import write_report

NAME = "</script><img src=x onerror=alert(1)>"  # of the first class


@pytest.fixture
def page(open_page, hostile_run, request):
    return open_page(write_report([hostile_run]), getattr(request, "param", "light"))


def boxes(page, kind):
    return page.locator(f".pictures rect.{kind}").count()


def test_every_control_works(page, faults):
    assert (boxes(page, "truth"), boxes(page, "missed")) == (2, 1)
    kinds = ("found", "wrong_class", "background")
    assert [boxes(page, kind) for kind in kinds] == [1, 1, 0]
    assert f"{NAME} 90%" in page.locator(".pictures text").all_text_contents()
    page.locator("[name=threshold]").fill("0.05")
    assert boxes(page, "background") == 1
    page.locator("[name=threshold]").fill("0.85")
    assert (boxes(page, "found"), boxes(page, "wrong_class")) == (1, 0)
    page.get_by_label("predictions").uncheck()
    assert (boxes(page, "found"), boxes(page, "truth")) == (0, 2)
    page.get_by_label("truth", exact=True).uncheck()
    assert page.locator(".pictures rect").count() == 0
    page.get_by_label("predictions").check()
    page.get_by_label("labels").uncheck()
    assert page.locator(".pictures text").count() == 0
    names = page.locator(".pictures figcaption")
    assert [text.split(" · ")[1] for text in names.all_inner_texts()] == ["b.jpg", "a.jpg"]
    page.locator("[name=order]").select_option("best")
    assert [text.split(" · ")[1] for text in names.all_inner_texts()] == ["a.jpg", "b.jpg"]
    page.locator("[name=kind]").select_option("missed")
    assert [text.split(" · ")[1] for text in names.all_inner_texts()] == ["b.jpg"]
    assert faults == []


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_charts_and_tables(page, faults):
    plots = page.locator(".plot")
    for number in range(plots.count()):
        plots.nth(number).scroll_into_view_if_needed()
        plots.nth(number).locator(".main-svg").first.wait_for()
    heads = page.locator("table.sortable th")
    first = page.locator("table.sortable tbody td").first
    heads.nth(1).click()
    assert first.inner_text() == NAME
    heads.nth(1).press("Enter")
    assert first.inner_text() == "dog"
    assert faults == []


def test_fits_narrow_screens_and_paper(page, faults):
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.pdf(format="A4", print_background=True).startswith(b"%PDF")
    assert page.locator(".plot:not(:has(.main-svg))").count() == 0  # drawn to be printed
    pictures = "[...document.images].map((image) => image.complete && image.naturalWidth)"
    assert page.evaluate(pictures) == [40] * 4  # two in the gallery, and again as the worst ones
    assert faults == []
