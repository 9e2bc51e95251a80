"""The example that chooses limits: a small one as a program, its table, and wrong options."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import programs
import pytest

from dbloss.score import Limits

EXAMPLE = Path(__file__).parents[1] / "examples" / "search_limits.py"


def test_prints_the_table_and_the_score_on_other_pages(tmp_path):
    done = programs.run(EXAMPLE, "--steps", 2, "--pages", 3, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    head, line, *rows, other, usual, chosen = done.stdout.strip().splitlines()
    assert head.startswith("| thresh, box_thresh | 0.3 | ") and set(line) <= set("| -")
    cells = [re.findall(r"0\.\d{3}|1\.000", row) for row in rows]
    assert {len(row) for row in cells} == {head.count("|") - 2}
    assert other == "on 3 other pages:"
    assert usual.startswith("usual limits: Limit(thresh=0.3, box_thresh=0.6, precision=")
    # P is still about 0.02 everywhere: nothing is found, and nothing chosen.
    assert chosen == "chosen limits: none"
    assert "search_limits: Every hmean is 0, so that no limits are chosen" in done.stderr
    assert (tmp_path / "limits.png").read_bytes()[:4] == b"\x89PNG"


def test_the_table_of_known_limits(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    hmean = np.array([[0.5, 0.25], [0.125, 1]])
    limits = Limits(np.array([0.3, 0.4]), np.array([0.55, 0.6]), hmean, hmean, hmean)
    assert import_module(EXAMPLE.stem).table(limits).splitlines() == [
        "| thresh, box_thresh | 0.55 | 0.6 |",
        "| --- | --- | --- |",
        "| 0.3 | 0.500 | 0.250 |",
        "| 0.4 | 0.125 | 1.000 |",
    ]


@pytest.mark.parametrize(
    ("options", "words"), [(["--pages", 0], "at least 1"), (["--loss", "BCE"], "main_loss_type")]
)
def test_wrong_options_are_named(options, words, tmp_path):
    done = programs.run(EXAMPLE, "--out", tmp_path, *options)
    assert done.returncode == 2
    assert words in done.stderr
