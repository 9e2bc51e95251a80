"""No display, no pyplot, and no matplotlib where none is asked for; and the examples run."""

import doctest
import importlib
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import programs
import pytest

import dbloss
from dbloss.base import wheels


def test_no_pyplot_no_display_and_no_matplotlib_before_a_picture_is_asked_for(tmp_path):
    script = f"""
import sys
import dbloss, paddle
assert "matplotlib" not in sys.modules
from dbloss.plot import plot_batch, plot_history
m = paddle.rand([1, 3, 8, 8]); o = paddle.ones([1, 8, 8])
plot_batch({{"maps": m}}, [None, o, o, o, o]).savefig({str(tmp_path / "a.png")!r})
plot_history([{{"loss": 1.0}}]).savefig({str(tmp_path / "b.png")!r})
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {"DISPLAY": "", "MPLBACKEND": "tkagg"}
    done = programs.run("-W", "ignore", "-c", script, env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dbloss.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib.*: pip install matplotlib$"):
        importlib.import_module("dbloss.plot")


def test_a_checkout_that_is_not_installed_is_named_by_its_path(monkeypatch):
    def none(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(wheels, "distribution", none)
    root = Path(dbloss.__file__).parents[1]
    assert wheels.with_extra("plot,score") == f"{root}[plot,score]"


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("cv2", "opencv-python-headless"),
        ("shapely", "shapely"),
        ("PIL", "pillow"),
        ("tqdm", "tqdm"),
    ],
)
def test_without_its_libraries_the_command_says_what_to_install(monkeypatch, library, package):
    for name in ("dbloss.plot.__main__", "dbloss.labels"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"needs {library}, which .*: pip install {package}$"):
        importlib.import_module("dbloss.plot.__main__")


@pytest.mark.parametrize("name", ["batch", "history", "limits", "problems", "targets"])
def test_examples_of_the_docstrings(name):
    failed, tried = doctest.testmod(importlib.import_module(f"dbloss.plot.{name}"))
    assert tried and not failed
