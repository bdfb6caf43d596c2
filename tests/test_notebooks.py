"""The notebooks run from top to bottom, offline, and are kept without what they put out."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_results_and_opens_in_colab(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert (
        f"colab.research.google.com/github/naf-hub/naf-hub/blob/main/notebooks/{path.name})"
        in notebook.cells[0].source
    )
    assert f"notebooks/{path.name})" in (ROOT / "docs/notebooks.md").read_text("utf-8")


def test_every_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One after the other in one kernel, emptied in between: importing torch four times would take the most time."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    parts = [
        [nbformat.v4.new_code_cell("%reset -f"), *nbformat.read(path, as_version=4).cells]
        for path in NOTEBOOKS
    ]
    assert len(parts) == 4
    together = nbformat.v4.new_notebook(cells=[cell for cells in parts for cell in cells])
    NotebookClient(together, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output.data for cell in together.cells for output in cell.get("outputs", []) if "data" in output]
    assert (
        sum("image/png" in data for data in shown) == 4
    )  # two of the quickstart, one of a comparison, one of words
