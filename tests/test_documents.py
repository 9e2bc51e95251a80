"""What the documents show runs: the examples of the docstrings and the README's code."""

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import dbloss

README = Path(__file__).parents[1] / "README.md"
MODULES = ["dbloss", *(f"dbloss.{module.name}" for module in pkgutil.iter_modules(dbloss.__path__))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_the_docstrings(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failed


@pytest.mark.parametrize("name", dbloss.__all__)
def test_public_names_have_an_example_that_runs(name):
    examples = doctest.DocTestFinder().find(getattr(dbloss, name), name)
    assert any(example.examples for example in examples)


def test_code_of_the_readme(monkeypatch):
    ppocr = ModuleType("ppocr")
    ppocr.losses = SimpleNamespace(DBLoss=None)
    monkeypatch.setitem(sys.modules, "ppocr", ppocr)
    monkeypatch.setitem(sys.modules, "ppocr.losses", ppocr.losses)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert ppocr.losses.DBLoss is dbloss.DBLoss
    assert set(names["losses"]) == {
        "loss",
        "loss_shrink_maps",
        "loss_threshold_maps",
        "loss_binary_maps",
    }
