"""The notebooks run, with short trainings; the second needs what the first leaves."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ["inference", "finetuning"]
SHORTER = {
    'ITERATIONS = "output/notebook", 800': 'ITERATIONS = "output/notebook", 30',
    "ITERATIONS = 200": "ITERATIONS = 8",
}


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


def test_notebooks_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    for name in NAMES:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            for long, short in SHORTER.items():
                cell.source = cell.source.replace(long, short)
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
