"""What a type checker lets pass runs, and the modules that `import dbloss` leaves out load on use.

mypy itself reads `typed.py` among the checks of CI.
"""

import typing

import programs
import pytest
from helpers import make_batch, tensor, tensors
from typed import right

from dbloss import DBLoss
from dbloss.losses import balance
from dbloss.losses.db import Losses, MainLossType


def test_what_a_checker_passes_runs():
    pytest.importorskip("matplotlib")
    batch = make_batch(shape=(2, 16, 24), seed=90)
    right(tensor(batch.maps, grad=True), tensors(batch.labels))


def test_the_names_for_checkers_are_those_that_run():
    for name in typing.get_args(MainLossType):
        DBLoss(main_loss_type=name)
    assert set(balance.PIXEL_LOSSES) < set(balance.MINED_TYPES)


def test_the_keys_for_checkers_are_those_that_come():
    batch = make_batch(shape=(1, 8, 8), seed=91)
    maps = tensor(batch.maps)
    predicts = {"maps": maps, "distance_maps": maps, "cbn_maps": maps}
    predicts |= {f"aux_maps_{level}": maps for level in ("p2", "p3", "p4")}
    weights = {"aux_weight_p2": 1, "aux_weight_p3": 1, "aux_weight_p4": 1}
    keys = DBLoss(**weights)(predicts, tensors(batch.labels)).keys()
    assert keys == Losses.__required_keys__ | Losses.__optional_keys__
    keys = DBLoss()({"maps": maps}, tensors(batch.labels)).keys()
    assert keys == Losses.__required_keys__


ON_USE = """
import pydoc, sys
import dbloss

names = ["boxes", "labels", "paddleocr", "plot", "score", "targets"]
assert not {f"dbloss.{name}" for name in names} & set(sys.modules)
assert {*names, "DBLoss", "__version__"} <= set(dir(dbloss))

sys.modules["matplotlib"] = None  # as where it is not installed
for show in ("dbloss.plot.plot_batch", "from dbloss import plot", "dbloss.plto"):
    try:
        exec(show)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
assert "DBLoss" in pydoc.render_doc(dbloss)
del sys.modules["matplotlib"]
print(dbloss.plot.plot_batch.__name__, dbloss.score.match.__name__)
"""


def test_modules_load_on_use():
    pytest.importorskip("matplotlib")
    done = programs.run("-W", "ignore", "-c", ON_USE)
    assert done.returncode == 0, done.stderr
    advice = "dbloss.plot needs matplotlib, which is not installed. Install what is missing: pip"
    access, imported, misspelt, loaded = done.stdout.splitlines()
    assert access.startswith(f"AttributeError: {advice}")
    assert imported.startswith(f"ImportError: {advice}")
    assert misspelt == "AttributeError: module 'dbloss' has no attribute 'plto'"
    assert loaded == "plot_batch match"
