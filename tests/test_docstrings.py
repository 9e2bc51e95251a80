"""Every public name has a docstring of one form, with all its parts."""

import inspect
import re

import pytest
from paddle import Tensor

import dbloss
from dbloss import boxes, labels, paddleocr, plot, score, targets

FUNCTIONS = {
    **{name: getattr(dbloss, name) for name in dbloss.__all__},
    "targets.make_targets": targets.make_targets,
    "boxes.find_boxes": boxes.find_boxes,
    "score.match": score.match,
    "score.search_limits": score.search_limits,
    "score.compare": score.compare,
    "score.search_calibration": score.search_calibration,
    "score.calibrate": score.calibrate,
    "score.fold_calibration": score.fold_calibration,
    "paddleocr.install": paddleocr.install,
    "targets.shrink": targets.shrink,
    "labels.read_labels": labels.read_labels,
    "labels.check_labels": labels.check_labels,
    **{f"plot.{name}": getattr(plot, name) for name in plot.__all__},
}
LAYERS = {
    name: FUNCTIONS.pop(name) for name, item in list(FUNCTIONS.items()) if inspect.isclass(item)
}
METHODS = {f"{name}.forward": layer.forward for name, layer in LAYERS.items()}
LAYERS["score.Hmean"] = score.Hmean
METHODS["score.Hmean.update"] = score.Hmean.update
LAYERS["score.MapHmean"] = score.MapHmean
METHODS["score.MapHmean.update"] = score.MapHmean.update
for drop_in in (paddleocr.MakeBorderMap, paddleocr.MakeShrinkMap, paddleocr.DBPostProcess):
    LAYERS[f"paddleocr.{drop_in.__name__}"] = drop_in
    METHODS[f"paddleocr.{drop_in.__name__}"] = drop_in.__call__
METHODS["paddleocr.DetMetric"] = paddleocr.DetMetric.__call__


def sections(item):
    """Return the parts of a docstring: what stands before the first heading, as "", and each."""
    parts, heading = {"": ""}, ""
    for line in inspect.getdoc(item).splitlines():
        if re.fullmatch(r"[A-Z][a-z]+:", line):
            heading = line[:-1]
            parts[heading] = ""
        else:
            parts[heading] += line + "\n"
    return parts


def entries(section):
    """Return the text of each entry of a section, by name."""
    found = re.split(r"^    (?=\S)", section, flags=re.MULTILINE)[1:]
    return dict(entry.split(":", 1) for entry in found)


def parameters(item):
    named = list(inspect.signature(item).parameters.values())
    return [f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name for p in named if p.name != "self"]


def each(items):
    return pytest.mark.parametrize("item", items.values(), ids=list(items))


@each(FUNCTIONS | LAYERS | METHODS)
def test_first_line_says_what_it_is(item):
    first, *rest = sections(item)[""].splitlines()
    assert re.fullmatch(r"[A-Z].*[.:`]", first)
    assert len(first) < 100
    assert not rest or rest[0] == ""


@each(FUNCTIONS | LAYERS | METHODS)
def test_every_parameter_is_described(item):
    described = entries(sections(item).get("Args", ""))
    names = [name for name in parameters(item) if name != "**kwargs" or name in described]
    assert list(described) == names
    assert all(text.strip() for text in described.values())


@each(FUNCTIONS | METHODS)
def test_tensors_have_a_shape_and_a_dtype(item):
    described = entries(sections(item)["Args"])
    for name, parameter in inspect.signature(item).parameters.items():
        if parameter.annotation in (Tensor, Tensor | None):
            assert re.search(r"`\[|the shape", described[name]), name
            assert re.search(r"float|bool|integer|dtype|as `", described[name]), name


@each(FUNCTIONS | METHODS)
def test_what_is_returned_is_described(item):
    assert sections(item).get("Returns", "").strip()


@each(FUNCTIONS | LAYERS | METHODS)
def test_errors_are_described(item):
    raised = entries(sections(item)["Raises"])
    assert raised
    assert all(re.fullmatch(r"[A-Z]\w+(Error|Warning)", name) for name in raised)


@each(FUNCTIONS | LAYERS)
def test_there_is_an_example_and_a_source(item):
    parts = sections(item)
    assert ">>> " in parts["Example"]
    assert parts["Source"].strip()


COMPUTED = {
    name: item
    for name, item in (FUNCTIONS | LAYERS).items()
    if not name.startswith(("plot.", "paddleocr.", "labels."))
}
del COMPUTED["validate_batch"]


@each(COMPUTED)
def test_the_formula_is_there(item):
    formulas = re.findall(r"`([^`]+)`", sections(item)[""])
    assert any(re.search(r"[-+*/=]|sigmoid", formula) for formula in formulas)
