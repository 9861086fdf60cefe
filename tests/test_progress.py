import logging
import sys

from d2detr import progress as module
from d2detr.progress import progress


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(4, "Checking", "files", done=1) as bar:
        bar.update(2)
        bar.refresh()
    shown = capsys.readouterr().err
    assert "Checking:  75%" in shown and "3/4" in shown


def test_lines_elsewhere(monkeypatch, capsys, caplog):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level(logging.INFO), progress(4, "Checking", "files") as bar:
        bar.update(3)
    assert "Checking: 3 of 4 files, " in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), progress(4, "Checking", "files", logs=False) as bar:
        bar.update(3)
    assert caplog.text == ""
    assert capsys.readouterr() == ("", "")


def test_quick_work_says_nothing(capsys, caplog):
    with caplog.at_level(logging.INFO), progress(4, "Checking", "files") as bar:
        bar.update(3)
    assert caplog.text == "" and capsys.readouterr() == ("", "")
