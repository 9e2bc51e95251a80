"""The notebook runs from its first cell to its last, and finds what it says."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def run(source, names):
    """Run a cell as a notebook does: what its last line gives is shown."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    shown = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    return shown._repr_png_() if hasattr(shown, "_repr_png_") else shown


def test_it_runs(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = {}
    shown = [run("".join(cell["source"]), names) for cell in CODE]
    pictures = [picture for picture in shown if isinstance(picture, bytes)]
    assert len(pictures) == 5 and all(picture.startswith(b"\x89PNG") for picture in pictures)

    printed = capsys.readouterr().out
    for line, kind in ((2, "crossing"), (3, "ignored-name"), (6, "missing-image")):
        assert f"line {line}, entry" in printed and f": {kind}. " in printed
    assert not names["report"].problems

    history = [step["loss"] for step in names["history"]]
    assert np.isfinite(history).all() and history[-1] < history[0] / 3
    assert names["score"]["hmean"] > 0.8


def test_it_is_kept_without_outputs():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CODE)
