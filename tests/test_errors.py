"""Every error names the argument, what was expected, what came and what to do."""

import ast
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import oracle
import paddle
import programs
import pytest
from helpers import PADDLE, TOLERANCE, check_db, make_batch, run_db, tensor, tensors

import dbloss
from dbloss import (
    BalanceLoss,
    DBLoss,
    DiceFocalLoss,
    DiceLoss,
    MaskL1Loss,
    differentiable_binarization,
    hard_negative_weights,
)

SINGLE = [DiceLoss, MaskL1Loss, BalanceLoss, DiceFocalLoss]
SINGLES = pytest.mark.parametrize("layer", SINGLE)
LABELS = ("threshold_map", "threshold_mask", "shrink_map", "shrink_mask")
N, H, W = 2, 4, 6


def raises(error, *parts):
    """`error` with every one of `parts`, each a pattern, somewhere in its message."""
    return pytest.raises(error, match="(?s)" + "".join(f"(?=.*(?:{part}))" for part in parts))


def shape(*dims):
    """The pattern of a shape, whatever its brackets."""
    return r",\s*".join(map(str, dims))


def called(value):
    """How a message calls a value that is of the wrong type."""
    if isinstance(value, paddle.Tensor):
        return "[Tt]ensor"
    return "None" if value is None else type(value).__name__


def zeros(*dims, dtype="float32", grad=False):
    return tensor(np.zeros(dims), dtype, grad)


def maps(*dims, **kwargs):
    return {"maps": zeros(*dims or (N, 3, H, W), **kwargs)}


def labels(**changed):
    return [None, *(changed.get(name, zeros(N, H, W)) for name in LABELS)]


def single(layer, **changed):
    """A call of `layer` with all in order but what is `changed`."""
    call = {name: zeros(N, H, W) for name in ("pred", "gt", "mask")} | changed
    return layer()(*call.values())


# A single loss ----------------------------------------------------------------------------------


@SINGLES
@pytest.mark.parametrize("dims", [(), (H, W), (N, 3, H, W)])
def test_prediction_of_a_wrong_rank(layer, dims):
    with raises(ValueError, "pred", r"N, H, W", shape(*dims)):
        single(layer, pred=zeros(*dims))


@SINGLES
@pytest.mark.parametrize("name", ["gt", "mask"])
@pytest.mark.parametrize("dims", [(H, W), (N, 1, H, W), (N, W, H), (1, H, W)])
def test_target_or_mask_of_another_shape(layer, name, dims):
    """Nothing is broadcast: a mask [1, H, W] would count its pixels once for the whole batch."""
    with raises(ValueError, name, shape(N, H, W), shape(*dims)):
        single(layer, **{name: zeros(*dims)})


@SINGLES
@pytest.mark.parametrize("dims", [(0, H, W), (N, 0, W), (N, H, 0)])
def test_no_image_or_no_pixel(layer, dims):
    with raises(ValueError, "pred", shape(*dims), "empty|image|pixel"):
        single(layer, **dict.fromkeys(("pred", "gt", "mask"), zeros(*dims)))


@SINGLES
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_prediction_of_a_wrong_dtype(layer, dtype):
    with raises(TypeError, "pred", "float", dtype, "astype|[Cc]ast"):
        single(layer, pred=zeros(N, H, W, dtype=dtype))


@SINGLES
@pytest.mark.parametrize("name", ["gt", "mask"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_target_or_mask_of_a_wrong_dtype(layer, name, dtype):
    with raises(TypeError, name, "float", dtype, "astype|[Cc]ast"):
        single(layer, **{name: zeros(N, H, W, dtype=dtype)})


@SINGLES
@pytest.mark.parametrize("name", ["pred", "gt", "mask"])
def test_not_a_tensor(layer, name):
    for value, got in ((np.zeros((N, H, W)), "ndarray"), ([[0.0]], "list"), ("x", "str")):
        with raises(TypeError, name, "[Tt]ensor", got, "to_tensor"):
            single(layer, **{name: value})


@pytest.mark.parametrize("layer", [DiceLoss, MaskL1Loss])
def test_a_mask_of_none_where_a_mask_is_needed(layer):
    with raises(TypeError, "mask", "[Tt]ensor", "None"):
        single(layer, mask=None)


@SINGLES
@pytest.mark.parametrize("name", ["gt", "mask"])
def test_target_or_mask_that_requires_a_gradient(layer, name):
    with raises(ValueError, name, "gradient", r"detach\(\)|stop_gradient"):
        single(layer, **{name: zeros(N, H, W, grad=True)})


@pytest.mark.parametrize(
    "weights, error, parts",
    [
        (zeros(N, W, H), ValueError, (shape(N, H, W), shape(N, W, H))),
        (zeros(1, H, W), ValueError, (shape(N, H, W), shape(1, H, W))),
        (zeros(N, H, W, dtype="complex64"), TypeError, ("float", "complex64")),
        (np.zeros((N, H, W)), TypeError, ("[Tt]ensor", "ndarray")),
        (zeros(N, H, W, grad=True), ValueError, ("gradient", r"detach\(\)")),
    ],
)
def test_weights_of_the_dice_loss(weights, error, parts):
    with raises(error, "weights", *parts):
        single(DiceLoss, weights=weights)


# DBLoss -----------------------------------------------------------------------------------------


def test_one_channel():
    """Of a head in evaluation mode, or of an inference model, which has no other."""
    advice = r"model\.train\(\)", r"paddle\.jit\.load"
    with raises(ValueError, "maps", "3", shape(N, 1, H, W), *advice):
        DBLoss()(maps(N, 1, H, W), labels())


@pytest.mark.parametrize("dims", [(N, H, W), (H, W), (N, 2, H, W), (N, 4, H, W), (N, 1, 3, H, W)])
def test_maps_of_a_wrong_shape(dims):
    with raises(ValueError, "maps", r"N, 3, H, W", shape(*dims)):
        DBLoss()(maps(*dims), labels())


@pytest.mark.parametrize("dims", [(0, 3, H, W), (N, 3, 0, W), (N, 3, H, 0)])
def test_maps_without_an_image_or_a_pixel(dims):
    empty = zeros(dims[0], *dims[2:])
    with raises(ValueError, "maps", shape(*dims)):
        DBLoss()(maps(*dims), [None, *[empty] * 4])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "complex64"])
def test_maps_of_a_wrong_dtype(dtype):
    with raises(TypeError, "maps", "float", dtype, "astype|[Cc]ast"):
        DBLoss()(maps(dtype=dtype), labels())


@pytest.mark.parametrize(
    "value, got", [(np.zeros((N, 3, H, W)), "ndarray"), (None, "None"), ([], "list")]
)
def test_maps_that_are_no_tensor(value, got):
    with raises(TypeError, "maps", "[Tt]ensor", got, "to_tensor"):
        DBLoss()({"maps": value}, labels())


@pytest.mark.parametrize("predicts", [None, [1], "maps", paddle.zeros([N, 3, H, W])])
def test_predicts_that_are_no_dict(predicts):
    with raises(TypeError, "predicts", "dict", called(predicts)):
        DBLoss()(predicts, labels())


def test_predicts_without_maps():
    with raises(ValueError, "predicts", "['\"]maps['\"]", "shrink_maps"):
        DBLoss()({"shrink_maps": zeros(N, 3, H, W)}, labels())


@pytest.mark.parametrize("value", [None, 5, {"shrink_map": 1}, {1, 2}, iter([])])
def test_labels_that_are_no_sequence(value):
    with raises(TypeError, "labels", "sequence|list", called(value)):
        DBLoss()(maps(), value)


@pytest.mark.parametrize(
    ("dims", "advice"),
    [
        ((N, H, W, 3), r"\.transpose\(\[0, 3, 1, 2\]\)"),
        ((3, H, W), r"\.unsqueeze\(0\)"),
        ((N, H, W), "along axis 1"),
        ((N, 2, H, W), "along axis 1"),
    ],
)
def test_advice_on_the_shape_of_maps(dims, advice):
    with raises(ValueError, "maps", advice):
        DBLoss()(maps(*dims), labels())


@pytest.mark.parametrize(
    ("dims", "advice"),
    [
        ((N, 1, H, W), r"\.squeeze\(1\)"),
        ((N, H, W, 1), r"\.squeeze\(-1\)"),
        ((N, 3, H, W), "shape of an image, which is the first of the labels"),
        ((N, H, W, 3), "shape of an image, which is the first of the labels"),
        ((H, W), r"\.unsqueeze\(0\)"),
        ((H, W, N), "another order"),
        ((N, H, 2 * W), "at the size of the predicted maps"),
    ],
)
def test_advice_on_the_shape_of_a_label(dims, advice):
    with raises(ValueError, "shrink_mask", advice):
        DBLoss()(maps(), labels(shrink_mask=zeros(*dims)))


def test_arrays_are_told_what_makes_a_batch_of_them():
    page = [np.zeros((H, W))] * 4
    for given in ([None, *page], [tuple(page)] * 5):
        with raises(TypeError, "labels", "threshold_map", r"dbloss\.targets\.stack_targets"):
            DBLoss()(maps(), given)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_number_of_labels(count):
    with raises(ValueError, "labels", "5", str(count), *LABELS):
        DBLoss()(maps(), [zeros(N, H, W)] * count)


@pytest.mark.parametrize("name", LABELS)
class TestLabel:
    @pytest.mark.parametrize(
        "dims", [(), (H, W), (N, 1, H, W), (N, W, H), (1, H, W), (N, H, 1), (N + 1, H, W)]
    )
    def test_shape(self, name, dims):
        with raises(ValueError, name, shape(N, H, W), shape(*dims)):
            DBLoss()(maps(), labels(**{name: zeros(*dims)}))

    def test_dtype(self, name):
        with raises(TypeError, name, "float", "complex64", "astype|[Cc]ast"):
            DBLoss()(maps(), labels(**{name: zeros(N, H, W, dtype="complex64")}))

    @pytest.mark.parametrize(
        "value, got", [(np.zeros((N, H, W)), "ndarray"), (None, "None"), (3, "int")]
    )
    def test_not_a_tensor(self, name, value, got):
        with raises(TypeError, name, "[Tt]ensor", got, "to_tensor"):
            DBLoss()(maps(), labels(**{name: value}))

    def test_requires_a_gradient(self, name):
        with raises(ValueError, name, "gradient", r"detach\(\)|stop_gradient"):
            DBLoss()(maps(), labels(**{name: zeros(N, H, W, grad=True)}))


@pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
def test_every_main_loss_type_calls_a_label_by_its_name(kind):
    for name in LABELS:
        with raises(ValueError, name):
            DBLoss(main_loss_type=kind)(maps(), labels(**{name: zeros(N, W, H)}))


@pytest.mark.parametrize(
    "key, dims",
    [
        ("cbn_maps", (N, H, W)),
        ("cbn_maps", (N, 1, W, H)),
        ("cbn_maps", (1, 1, H, W)),
        ("cbn_maps", (N, 0, H, W)),
        ("aux_maps_p4", (N, 1, H, W)),
        ("aux_maps_p3", (N, 3, W, H)),
        ("aux_maps_p2", (N, H, W)),
    ],
)
def test_further_maps_of_a_wrong_shape(key, dims):
    predicts = maps() | {"distance_maps": zeros(N, 1, H, W), "cbn_maps": zeros(N, 1, H, W)}
    layer = DBLoss(aux_weight_p4=1, aux_weight_p3=1, aux_weight_p2=1)
    with raises(ValueError, key, shape(*dims)):
        layer(predicts | {key: zeros(*dims)}, labels())


def test_a_single_further_map_without_its_axis_is_told_to_add_it():
    predicts = maps() | {"distance_maps": None, "cbn_maps": zeros(N, H, W)}
    with raises(ValueError, "cbn_maps", r"\.unsqueeze\(1\)"):
        DBLoss()(predicts, labels())


@pytest.mark.parametrize("key", ["cbn_maps", "aux_maps_p4"])
@pytest.mark.parametrize("value, got", [(np.zeros((N, 3, H, W)), "ndarray"), (None, "None")])
def test_further_maps_that_are_no_tensor(key, value, got):
    predicts = maps() | dict.fromkeys(("distance_maps", "cbn_maps"), zeros(N, 1, H, W))
    with raises(TypeError, key, "[Tt]ensor", got):
        DBLoss(aux_weight_p4=1)(predicts | {key: value}, labels())


@pytest.mark.parametrize("key", ["cbn_maps", "aux_maps_p4"])
@pytest.mark.parametrize("dtype", ["int64", "complex64"])
def test_further_maps_of_a_wrong_dtype(key, dtype):
    predicts = maps() | dict.fromkeys(("distance_maps", "cbn_maps"), zeros(N, 1, H, W))
    with raises(TypeError, key, "float", dtype):
        DBLoss(aux_weight_p4=1)(predicts | {key: zeros(N, 3, H, W, dtype=dtype)}, labels())


def test_distance_maps_without_cbn_maps():
    with raises(ValueError, "cbn_maps", "distance_maps"):
        DBLoss()(maps() | {"distance_maps": zeros(N, 1, H, W)}, labels())


# Hyperparameters --------------------------------------------------------------------------------

NOT_NEGATIVE = {
    "alpha": [DBLoss],
    "beta": [DBLoss],
    "ohem_ratio": [DBLoss],
    "aux_weight_p4": [DBLoss],
    "aux_weight_p3": [DBLoss],
    "aux_weight_p2": [DBLoss],
    "negative_ratio": [BalanceLoss],
    "fallback_negatives": [DBLoss, BalanceLoss],
    "smooth": [DBLoss, DiceLoss, BalanceLoss, DiceFocalLoss],
    "dice_weight": [DBLoss, DiceFocalLoss],
    "focal_weight": [DBLoss, DiceFocalLoss],
    "focal_gamma": [DBLoss, DiceFocalLoss],
}
POSITIVE = {"eps": [DBLoss, *SINGLE]}
FRACTION = {"focal_alpha": [DBLoss, DiceFocalLoss]}
NUMBERS = NOT_NEGATIVE | POSITIVE | FRACTION


def each(table):
    cases = [(layer, name) for name, layers in table.items() for layer in layers]
    return pytest.mark.parametrize("layer, name", cases)


@each(NUMBERS)
def test_hyperparameter_out_of_range(layer, name):
    for value in (-1, -0.5, float("nan"), float("inf"), -float("inf")):
        with raises(ValueError, name, str(value)):
            layer(**{name: value})
    with raises(ValueError, name, "finite|whole", "got 1000"):
        layer(**{name: 10**400})


@each(NUMBERS)
def test_hyperparameter_that_is_no_number(layer, name):
    for value in (None, "", "three", "1,5", "True", [3], True, False, 1j):
        with raises(TypeError, name, "number", called(value)):
            layer(**{name: value})


@each(POSITIVE)
def test_eps_of_zero(layer, name):
    with raises(ValueError, "eps", "0"):
        layer(eps=0)


@each(FRACTION)
def test_focal_alpha_above_one(layer, name):
    with raises(ValueError, name, "0", "1", r"1\.5"):
        layer(**{name: 1.5})


@each(NUMBERS)
def test_numbers_of_every_kind_pass(layer, name):
    for kind in (int, float, np.float32, np.float64, np.int64):
        if name != "eps" or kind(0.25):
            layer(**{name: kind(0.25 if name == "eps" else 1)})


TEXTS = {name: ["1", "0.25", "1e-6", " 2.5E-1 "] for name in NUMBERS}
TEXTS |= {"fallback_negatives": ["3", "7.0", "1e3"], "eps": ["0.25", "1e-6", " 2.5E-1 "]}


@each(NUMBERS)
def test_a_number_written_as_text_is_read(layer, name):
    """YAML takes 1e-6 for text, and PaddleOCR's configurations are YAML."""
    further = [{}, {"main_loss_type": "DiceFocalLoss"}] if layer is DBLoss else [{}]
    for text, settings in itertools.product(TEXTS[name], further):
        number = ast.literal_eval(text.strip())
        got, expected = (layer(**{name: value}, **settings) for value in (text, number))
        assert str(got) == str(expected)
        assert getattr(got, name, None) == getattr(expected, name, None)


@each(NUMBERS)
def test_a_number_written_as_text_is_held_to_the_range(layer, name):
    for text in ("-1", "nan", "inf", "-Infinity", "1e999", "9" * 5000):
        with raises(ValueError, name, "finite|whole"):
            layer(**{name: text})


def test_functions_read_numbers_written_as_text():
    batch = make_batch()
    p, g, m = tensors(batch.single)
    for one, other in (
        (hard_negative_weights(p, g, m, "1.5"), hard_negative_weights(p, g, m, 1.5)),
        (
            hard_negative_weights(p, 0 * g, m, fallback_negatives="1e1"),
            hard_negative_weights(p, 0 * g, m, fallback_negatives=10),
        ),
        (differentiable_binarization(p, g, "5e1"), differentiable_binarization(p, g, 50)),
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


FLAGS = pytest.mark.parametrize(
    "layer, name",
    [(DBLoss, "balance_loss"), (BalanceLoss, "balance_loss"), (BalanceLoss, "return_origin")]
    + [(layer, "global_batch") for layer in (DBLoss, *SINGLE)],
)


@FLAGS
def test_0_and_1_pass_for_a_flag(layer, name):
    for value in (0, 1, np.int64(0), np.int64(1), np.bool_(False), 0.0, 1.0):
        made = layer(**{name: value})
        owner = made.bce_loss if (layer, name) == (DBLoss, "balance_loss") else made
        assert getattr(owner, name) is bool(value)
        for part in made.sublayers():
            assert name != "global_batch" or part.global_batch is bool(value)


@FLAGS
def test_anything_else_is_no_flag(layer, name):
    for value in (None, "True", "0", "1", 2, -1, 0.5, float("nan"), [], [1]):
        with raises(TypeError, name, "True or False", called(value)):
            layer(**{name: value})


@pytest.mark.parametrize("name", ["alpha", "beta", "ohem_ratio", "smooth"])
def test_a_rational_number_is_computed_with(engine, name):
    batch = make_batch()

    def losses(value):
        layer = DBLoss(main_loss_type="BCELoss", **{name: value})
        return run_db(layer, {"maps": batch.maps}, batch.labels)

    check_db(losses(Fraction(3, 2)), losses(1.5), TOLERANCE["float32"])


@pytest.mark.parametrize("layer", [DBLoss, BalanceLoss])
def test_a_number_of_pixels_is_whole(layer):
    with raises(ValueError, "fallback_negatives", "whole number at least 0", r"got 0\.5"):
        layer(fallback_negatives=0.5)
    layer(fallback_negatives=100.0)


@each(NOT_NEGATIVE | FRACTION)
def test_zero_passes(layer, name):
    layer(**{name: 0})


@pytest.mark.parametrize("layer", [DBLoss, BalanceLoss])
@pytest.mark.parametrize("value", ["Dice", "diceloss", "", "BCE"])
def test_unknown_main_loss_type_lists_those_there_are(layer, value):
    with raises(
        ValueError, "main_loss_type", f"['\"]{value}['\"]", "CrossEntropy", *oracle.BALANCED
    ):
        layer(main_loss_type=value)


@pytest.mark.parametrize("layer", [DBLoss, BalanceLoss])
@pytest.mark.parametrize("value", [None, 3, DiceLoss])
def test_main_loss_type_that_is_no_string(layer, value):
    with raises((ValueError, TypeError), "main_loss_type", *oracle.BALANCED):
        layer(main_loss_type=value)


def test_unknown_main_loss_type_of_dbloss_lists_dice_focal_and_names_the_closest():
    with raises(ValueError, "DiceFocalLoss", "Did you mean 'DiceLoss'"):
        DBLoss(main_loss_type="dice")


def test_balance_has_no_dice_focal_and_names_the_class_that_does():
    with raises(ValueError, "main_loss_type", r"dbloss\.DiceFocalLoss|DiceFocalLoss\("):
        BalanceLoss(main_loss_type="DiceFocalLoss")


# Keywords that nothing reads --------------------------------------------------------------------

SLIPS = [
    (DBLoss, "ohem_ration", "ohem_ratio"),
    (DBLoss, "ohemratio", "ohem_ratio"),
    (DBLoss, "OHEM_ratio", "ohem_ratio"),
    (DBLoss, "Alpha", "alpha"),
    (DBLoss, "aplha", "alpha"),
    (DBLoss, "alphs", "alpha"),
    (DBLoss, "betta", "beta"),
    (DBLoss, "epss", "eps"),
    (DBLoss, "balanced_loss", "balance_loss"),
    (DBLoss, "mian_loss_type", "main_loss_type"),
    (DBLoss, "focal_gama", "focal_gamma"),
    (DBLoss, "aux_weights_p3", "aux_weight_p3"),
    (DBLoss, "fallback_negative", "fallback_negatives"),
    (BalanceLoss, "negative_ration", "negative_ratio"),
    (BalanceLoss, "retrun_origin", "return_origin"),
    (BalanceLoss, "smoth", "smooth"),
]
# Those of PaddleOCR's data code and distillation losses, of other DB losses, and plain words.
UNRELATED = [
    "colour",
    "kwargs",
    "weight",
    "key",
    "model_name_list",
    "model_name_pairs",
    "maps_name",
]
UNRELATED += ["reduction", "type", "bbce_loss", "bce_scale", "l1_scale", "total_epoch", "use_log"]


@pytest.mark.parametrize("layer, slip, meant", SLIPS)
def test_a_keyword_close_to_a_known_one_is_an_error_that_names_it(layer, slip, meant, caplog):
    with raises(TypeError, layer.__name__, f"'{slip}'", f"Did you mean '{meant}'", "spelling"):
        layer(**{slip: 1})
    with raises(TypeError, f"'{slip}'", f"'{meant}'"):
        layer(**{slip: 1, "colour": "red"})
    assert not caplog.records


@pytest.mark.parametrize("layer", [DBLoss, BalanceLoss])
def test_any_other_keyword_is_reported(layer, caplog):
    for name in UNRELATED:
        caplog.clear()
        layer(**{name: 1})
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("dbloss", "WARNING")
        assert record.getMessage() == (
            f"{layer.__name__} does not know {name!r} and leaves it unused."
            " Correct the spelling, or delete it."
        )
        assert record.pathname == __file__


# What PaddleOCR does: it has Python's warnings ignored, and a logger of its own.
SCRIPT = """
import logging, sys, warnings
import paddle
from dbloss import DBLoss, validate_batch
warnings.simplefilter("ignore")
ppocr = logging.getLogger("ppocr")
ppocr.addHandler(logging.StreamHandler(sys.stdout))
ppocr.setLevel(logging.INFO)
half, ones = paddle.full([1, 4, 4], 0.5), paddle.ones([1, 4, 4])
before = list(logging.root.handlers)
for configured in sys.argv[1:]:
    logging.root.handlers[:] = before
    print("----", file=sys.stderr, flush=True)
    exec(configured)
    DBLoss(colour="red")
    validate_batch({"maps": paddle.stack([half] * 3, axis=1)}, [None, half, ones, 0 * ones, ones])
"""
REPORTED = ("DBLoss does not know 'colour' and leaves it", "labels: the batch has no text")
CONFIGURATIONS = [
    "",  # Paddle 3 gives the root logger a handler, older ones do not
    "logging.root.handlers.clear()",
    "logging.basicConfig(force=True)",
    "logging.getLogger('dbloss').addHandler(logging.StreamHandler());"
    " logging.getLogger('dbloss').propagate = False",
]


def test_what_is_reported_is_printed_once_though_warnings_are_ignored():
    done = programs.run("-c", SCRIPT, *CONFIGURATIONS)
    assert done.returncode == 0, done.stderr
    _, *parts = done.stderr.split("----\n")
    assert len(parts) == len(CONFIGURATIONS)
    for text in REPORTED:
        for configured, part in zip(CONFIGURATIONS, parts):
            assert part.count(text) == 1, (configured, part)
        assert text not in done.stdout


# The binarization -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed, error, parts",
    [
        ({"probability_map": None}, TypeError, ("[Tt]ensor", "None")),
        ({"threshold_map": np.zeros((N, H, W))}, TypeError, ("[Tt]ensor", "ndarray")),
        ({"probability_map": zeros(N, H, W, dtype="int64")}, TypeError, ("float", "int64")),
        ({"threshold_map": zeros(N, H, W, dtype="bool")}, TypeError, ("float", "bool")),
        ({"threshold_map": zeros(N, W, H)}, ValueError, (shape(N, H, W), shape(N, W, H))),
        ({"k": "steep"}, TypeError, ("number", "str")),
        ({"k": True}, TypeError, ("number", "bool")),
        ({"k": float("nan")}, ValueError, ("nan",)),
    ],
)
def test_binarization(changed, error, parts):
    call = {"probability_map": zeros(N, H, W), "threshold_map": zeros(N, H, W)} | changed
    with raises(error, *changed, *parts):
        differentiable_binarization(**call)


@pytest.mark.skipif(PADDLE >= (3, 0), reason="Paddle 3 takes the losses into static graphs")
def test_static_graph_of_paddle_2():
    batch = make_batch()
    layer = paddle.jit.to_static(DBLoss(), full_graph=True)
    with pytest.raises(Exception, match=r"Paddle 2.*expected eager mode, got a static graph"):
        layer({"maps": tensor(batch.maps)}, [None, *tensors(batch.labels[1:])])


# Where messages stand ----------------------------------------------------------------------------


def test_checks_holds_what_several_modules_use_and_what_the_losses_take():
    """A message about an argument of any other single module stands in that module."""
    root = Path(dbloss.__file__).parent
    losses = {"losses", "engine"}
    users = {}
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "checks":
                users.setdefault(node.attr, set()).add(file.relative_to(root).parts[0])
    own = ast.parse((root / "base" / "checks.py").read_text("utf-8"))
    shared = {node.id for node in ast.walk(own) if isinstance(node, ast.Name)}
    for node in own.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            files = users[node.name]
            assert files & losses or len(files) > 1 or node.name in shared, node.name


def test_a_single_loss_names_the_shape_it_expects():
    p, g = paddle.rand([2, 4, 4]), paddle.zeros([2, 4, 5])
    expected = r"gt: expected the shape \[2, 4, 4\], N, H and W of pred, got \[2, 4, 5\]"
    with pytest.raises(ValueError, match=expected):
        DiceLoss()(p, g, paddle.ones_like(p))
