"""The first example runs and prints what it says."""

import re
import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "random_tensors.py"


def test_it_prints_losses_norm_and_time(monkeypatch, capsys):
    monkeypatch.setenv("DBLOSS_ENGINE", "auto")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    batches = capsys.readouterr().out.strip().split("\n\n")
    assert len(batches) == 2
    for batch in batches:
        rows = dict(re.findall(r"^  (.+?)  +(\S+)", batch, re.MULTILINE))
        numbers = {name: float(value) for name, value in rows.items()}
        assert list(numbers) == [
            "loss",
            "loss_shrink_maps",
            "loss_threshold_maps",
            "loss_binary_maps",
            "gradient norm",
            "time of a step",
        ]
        parts = [numbers[name] for name in numbers if name.endswith("_maps")]
        assert abs(numbers["loss"] - sum(parts)) < 1e-3
        assert numbers["gradient norm"] > 0
