import numpy as np
import oracle
import paddle
import pytest
from helpers import (
    EITHER_ENGINE,
    PADDLE,
    TOLERANCE,
    Batch,
    assert_grad,
    assert_value,
    check_db,
    make_batch,
    not_written,
    run_db,
    scalar,
    tensor,
    tensors,
)

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss
from dbloss.engine import operators

pytestmark = pytest.mark.usefixtures("engine")

FOUR = {"loss", *oracle.PARTS}
TYPES = pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
# One loss that is a number, two that are mined, one of two terms.
FOUR_KINDS = ["DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"]


def check_batch(batch, dtype="float32", extra=(), label_dtype="float32", **settings):
    predicts = {"maps": batch.maps, **dict(extra)}
    got = run_db(DBLoss(**settings), predicts, batch.labels, dtype, label_dtype)
    check_db(got, oracle.db(predicts, batch.labels, **settings), TOLERANCE[dtype])


def graph(batch):
    """A leaf for the predictions, the predictions and the labels."""
    leaf = tensor(batch.maps, grad=True)
    return leaf, {"maps": leaf}, tensors(batch.labels)


# Values and gradients ---------------------------------------------------------------------------


@TYPES
@pytest.mark.parametrize(
    ("data", "shape", "dtype"),
    [
        ("binary", (2, 8, 12), "float32"),
        ("binary", (1, 1, 1), "float32"),
        ("soft", (1, 5, 2), "float32"),
        ("soft", (2, 8, 12), "float32"),
        ("ties", (2, 8, 12), "float32"),
    ],
)
def test_value_and_gradient(kind, data, shape, dtype):
    check_batch(make_batch(data, shape, seed=20), dtype, main_loss_type=kind)


# In float64 the fused engine is compiled anew: all losses alone, in test_balance.py, and these.
@pytest.mark.parametrize("kind", FOUR_KINDS)
@pytest.mark.parametrize(("data", "shape"), [("binary", (1, 1, 1)), ("soft", (2, 8, 12))])
def test_value_and_gradient_in_float64(kind, data, shape):
    check_batch(make_batch(data, shape, seed=20), "float64", main_loss_type=kind)


@TYPES
@pytest.mark.parametrize(
    ("settings", "data"),
    [
        ({"alpha": 1.5, "beta": 0.25, "ohem_ratio": 0.5}, "binary"),
        ({"alpha": 0, "beta": 0}, "binary"),
        ({"balance_loss": False}, "binary"),
        ({"eps": 0.25, "smooth": 1.5}, "binary"),
        ({"fallback_negatives": 5}, "no_text"),
        ({"smooth": 1.5}, "no_text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_settings(kind, settings, data):
    check_batch(make_batch(data, seed=21), main_loss_type=kind, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"focal_alpha": 0.5, "focal_gamma": 3.0},
        {"dice_weight": 0.5, "focal_weight": 4.0},
    ],
)
def test_settings_of_dice_focal(settings):
    check_batch(make_batch(seed=21), main_loss_type="DiceFocalLoss", **settings)
    # Another loss takes them and leaves them unused.
    check_batch(make_batch(seed=21), main_loss_type="BCELoss", **settings)


def test_a_large_eps_reaches_every_part():
    """The focal loss alone takes none of 0.5 or more, and only where it is the one that runs."""
    check_batch(make_batch(seed=21), main_loss_type="BCELoss", eps=2.0)


@TYPES
def test_cbn_and_aux_maps(kind):
    a, b, c = (make_batch(seed=s).maps for s in (22, 23, 24))
    extra = {"distance_maps": a[:, :1], "cbn_maps": b[:, :2], "aux_maps_p4": a, "aux_maps_p2": c}
    weights = {"aux_weight_p4": 0.2, "aux_weight_p3": 0.3, "aux_weight_p2": 0.5}
    check_batch(make_batch(seed=25), extra=extra, main_loss_type=kind, **weights)


@EITHER_ENGINE
@pytest.mark.parametrize("where", ["a large batch on a CPU", "another device"])
@TYPES
def test_terms_on_operators(kind, where, monkeypatch):
    """Large maps are added up in short runs; elsewhere terms are joined, and nothing is read."""
    if where == "another device":
        monkeypatch.setattr(operators._Sweeps, "_on_host", lambda *_: False)
    else:
        monkeypatch.setattr(operators, "_LARGE", 0)
    test_cbn_and_aux_maps(kind)


@pytest.mark.parametrize(
    "label_dtype",
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float64"],
)
def test_labels_of_any_dtype(label_dtype):
    batch = make_batch(seed=26)._replace(t=make_batch(seed=27).g)
    for kind in ("DiceLoss", "BCELoss"):
        check_batch(batch, label_dtype=label_dtype, main_loss_type=kind)
        check_batch(batch, "float64", label_dtype=label_dtype, main_loss_type=kind)


@pytest.mark.parametrize("kind", ["MaskL1Loss", "OHEMDiceLoss", "DiceFocalLoss"])
def test_masks_of_255_in_uint8_do_not_overflow(kind):
    batch = make_batch("masks_255", seed=28)._replace(t=make_batch(seed=29).g)
    check_batch(batch, label_dtype="uint8", main_loss_type=kind)


def test_labels_of_different_dtypes():
    batch = make_batch(seed=30)
    dtypes = ["float32", "float64", "bool", "int64", "uint8"]
    labels = [tensor(a, d) for a, d in zip(batch.labels, dtypes)]
    got = run_db(DBLoss(), {"maps": batch.maps}, labels)
    check_db(got, oracle.db({"maps": batch.maps}, batch.labels), TOLERANCE["float32"])


@pytest.mark.parametrize("kind", FOUR_KINDS)
def test_finite_differences(kind):
    """The gradient of each pixel against the layer's own loss, by a stencil of four points."""
    maps = np.array([[[0.2, 0.72, 0.36], [0.52, 0.28, 0.64]]]) + np.zeros((1, 3, 1, 1))
    maps[:, 1] = 0.5 + np.array([[0.2, -0.1, 0.1], [-0.2, 0.15, -0.15]])
    g, half = np.array([[[1, 0, 0], [0, 0, 1]]]), np.full((1, 2, 3), 0.5)
    labels = tensors([None, half, half, g, np.ones_like(half)], "float64")
    layer, h = DBLoss(main_loss_type=kind, ohem_ratio=1), 5e-3
    _, grads = run_db(layer, {"maps": maps}, labels, "float64")
    for row, column in np.ndindex(2, 3):
        parts = []
        for step in (-2, -1, 1, 2):  # one step of all three channels: each part sees its own
            moved = maps.copy()
            moved[:, :, row, column] += step * h
            out = layer({"maps": tensor(moved, "float64")}, labels)
            parts.append([scalar(out[key]) for key in oracle.PARTS])
        slopes = np.dot([1, -8, 8, -1], parts) / (12 * h)
        # A loss of size 5 rounded to float32 leaves an error of 1e-4 in the quotient.
        np.testing.assert_allclose(grads["maps"][0, :, row, column], slopes, rtol=0, atol=5e-4)


@TYPES
def test_gradient_of_each_part_and_of_any_mix(kind):
    """The upstream gradient is never 1, and never the same for two parts."""
    batch = make_batch(seed=31)
    grad = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)[1]["maps"]
    for factors in ([2.5, 0, 0, 0], [0, -3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 7], [1, 2, 3, 4]):
        leaf, predicts, labels = graph(batch)
        out = DBLoss(main_loss_type=kind)(predicts, labels)
        total = sum(f * out[key] for f, key in zip(factors, ("loss", *oracle.PARTS)) if f)
        (total + (3 * leaf).sum()).backward()
        channels = factors[0] + np.array(factors[1:]).reshape(1, 3, 1, 1)
        assert_grad(leaf.grad.numpy(), channels * grad + 3, TOLERANCE["float32"])


def test_prediction_in_the_middle_of_a_graph():
    batch, kind = make_batch(seed=32), "OHEMDiceLoss"
    logit = np.log(batch.maps / (1 - batch.maps))
    leaf = tensor(logit, grad=True)
    maps = paddle.nn.functional.sigmoid(leaf)
    DBLoss(main_loss_type=kind)({"maps": maps}, tensors(batch.labels))["loss"].backward()
    p = maps.numpy().astype(np.float64)
    _, grads = oracle.db({"maps": p}, batch.labels, main_loss_type=kind)
    assert_grad(leaf.grad.numpy(), grads["maps"] * p * (1 - p), TOLERANCE["float32"])


@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_gradients_accumulate_over_two_batches(kind):
    batch, layer = make_batch(seed=33), DBLoss(main_loss_type=kind)
    leaf, predicts, labels = graph(batch)
    for _ in range(2):
        layer(predicts, labels)["loss"].backward()
    _, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    assert_grad(leaf.grad.numpy(), 2 * grads["maps"], TOLERANCE["float32"])


@pytest.mark.skipif(PADDLE < (3, 3), reason="Paddle crashes on it before 3.3")
@pytest.mark.parametrize("kind", FOUR_KINDS)
def test_gradient_asked_twice_of_one_graph(kind):
    """As losses are weighed by their gradients. (Paddle lets a PyLayer run `backward` but once.)"""
    batch = make_batch(seed=33)
    leaf, predicts, labels = graph(batch)
    out = DBLoss(main_loss_type=kind)(predicts, labels)
    grad = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)[1]["maps"]
    for channel, key in enumerate(oracle.PARTS):
        (part,) = paddle.grad(out[key], leaf, retain_graph=True)
        only = np.arange(3).reshape(1, 3, 1, 1) == channel
        assert_grad(part.numpy(), grad * only, TOLERANCE["float32"])
    out["loss"].backward()
    assert_grad(leaf.grad.numpy(), grad, TOLERANCE["float32"])


@pytest.mark.parametrize("kind", ["BCELoss", "OHEMDiceLoss"])
def test_ties_at_zero_beside_a_binary_map_of_the_same_labels(engine, kind):
    """Places left go to negatives of probability 0 alone, which other maps must not hide."""
    batch = make_batch("ties", seed=34)
    maps = np.where(batch.maps > 0.6, batch.maps, 0)
    n_neg = oracle.counts(batch.g, batch.m, 5)[1]
    assert ((maps[:, 0] > 0) & (batch.g == 0) & (batch.m == 1)).sum() < n_neg
    got = run_db(DBLoss(main_loss_type=kind, ohem_ratio=5), {"maps": maps}, batch.labels)
    expected = oracle.db({"maps": maps}, batch.labels, main_loss_type=kind, ohem_ratio=5)
    check_db(got, expected, TOLERANCE["float32"])


# What comes out ---------------------------------------------------------------------------------


def test_exactly_four_keys():
    batch = make_batch()
    for extra in ({}, {"cbn_maps": batch.maps}, {"neck": batch.maps}):
        out, _ = run_db(DBLoss(), {"maps": batch.maps} | extra, batch.labels)
        assert out.keys() == FOUR


def test_aux_maps_without_a_weight_add_no_key_and_are_not_looked_at():
    batch = make_batch()
    predicts = {"maps": batch.maps, "aux_maps_p4": np.full_like(batch.maps, np.nan)}
    losses, grads = run_db(DBLoss(aux_weight_p3=1.0), predicts, batch.labels)
    assert losses.keys() == FOUR and np.isfinite(losses["loss"]) and grads["aux_maps_p4"] is None


def test_no_gradient_is_made_where_none_is_asked():
    batch = make_batch()
    out = DBLoss()({"maps": tensor(batch.maps)}, tensors(batch.labels))
    assert all(v.stop_gradient for v in out.values())
    with paddle.no_grad():
        _, predicts, labels = graph(batch)
        assert all(v.stop_gradient for v in DBLoss()(predicts, labels).values())


def test_image_is_never_read():
    batch = make_batch()
    layer, (leaf, predicts, labels) = DBLoss(), graph(batch)
    expected = float(layer(predicts, labels)["loss"])
    for image in (None, "page.png", leaf, tensor(np.full((3, 2), np.nan))):
        assert float(layer(predicts, (image, *labels[1:]))["loss"]) == expected


@pytest.mark.parametrize(
    ("kind", "dtype", "graded"),
    [
        *((kind, "float32", True) for kind in oracle.MAIN_LOSS_TYPES),
        *((kind, "float64", True) for kind in FOUR_KINDS),
        *((kind, "float32", False) for kind in FOUR_KINDS),
    ],
)
def test_inputs_are_not_written_to(kind, dtype, graded):
    """With labels of the dtype that is computed in, of which no copy is made."""
    batch, keys = make_batch(), ("maps", "distance_maps", "cbn_maps", "aux_maps_p4")
    predicts = {key: tensor(batch.maps, dtype, grad=graded) for key in keys}
    labels = tensors(batch.labels, dtype)
    given, sequence = dict(predicts), list(labels)
    with not_written(*predicts.values(), *labels[1:]):
        losses = DBLoss(main_loss_type=kind, aux_weight_p4=0.5)(predicts, labels)
        if graded:
            losses["loss"].backward()
    assert predicts == given and all(a is b for a, b in zip(labels, sequence, strict=True))


# A drop-in for PaddleOCR ------------------------------------------------------------------------


def test_a_configuration_of_paddleocr_builds_it(caplog):
    """The configuration's `name` passes silently."""
    config = {
        "name": "DBLoss",
        "balance_loss": True,
        "main_loss_type": "DiceLoss",
        "alpha": 5,
        "beta": 10,
        "ohem_ratio": 3,
    }
    batch = make_batch()
    got = run_db(DBLoss(**config), {"maps": batch.maps}, batch.labels)
    check_db(got, oracle.db({"maps": batch.maps}, batch.labels), TOLERANCE["float32"])
    assert not caplog.records


def test_a_configuration_of_text_and_ones_computes_what_its_numbers_do():
    batch = make_batch()
    text = {"balance_loss": 1, "alpha": "5e0", "beta": "1e+1", "ohem_ratio": "3", "eps": "1e-6"}
    text |= {"main_loss_type": "BCELoss", "fallback_negatives": "1e2", "smooth": "0e0"}
    got = run_db(DBLoss(**text), {"maps": batch.maps}, batch.labels)
    settings = {"main_loss_type": "BCELoss"}
    expected = oracle.db({"maps": batch.maps}, batch.labels, **settings)
    check_db(got, expected, TOLERANCE["float32"])


def test_unknown_keywords_are_reported_by_name(caplog):
    layer = DBLoss(total_epoch=1, colour="red", name="DBLoss")
    (record,) = caplog.records
    assert record.pathname == __file__
    assert "DBLoss does not know 'colour', 'total_epoch' and" in record.getMessage()
    batch = make_batch()
    got = run_db(layer, {"maps": batch.maps}, batch.labels)
    check_db(got, oracle.db({"maps": batch.maps}, batch.labels), TOLERANCE["float32"])


@TYPES
def test_attributes_and_state(kind):
    layer = DBLoss(main_loss_type=kind, alpha=3, beta=4)
    assert (layer.alpha, layer.beta) == (3, 4)
    part = DiceFocalLoss if kind == "DiceFocalLoss" else BalanceLoss
    assert isinstance(layer.bce_loss, part) and isinstance(layer.l1_loss, MaskL1Loss)
    assert isinstance(layer.dice_loss, part if kind == "DiceFocalLoss" else DiceLoss)
    assert not layer.state_dict()


@pytest.mark.parametrize("kind", ["BCELoss", "DiceFocalLoss"])
def test_alpha_and_beta_changed_later_take_effect(kind):
    batch, layer = make_batch(), DBLoss(main_loss_type=kind)
    layer.alpha, layer.beta, layer.aux_weight_p4 = 0.5, 2.0, 0.25
    predicts = {"maps": batch.maps, "aux_maps_p4": make_batch(seed=36).maps}
    settings = {"alpha": 0.5, "beta": 2.0, "aux_weight_p4": 0.25, "main_loss_type": kind}
    got = run_db(layer, predicts, batch.labels)
    check_db(got, oracle.db(predicts, batch.labels, **settings), TOLERANCE["float32"])


def test_settings_of_a_part_changed_later_take_effect():
    batch, layer = make_batch(), DBLoss(main_loss_type="BCELoss")
    for part in (layer.dice_loss, layer.l1_loss, layer.bce_loss):
        part.eps = 0.5
    layer.bce_loss.negative_ratio = 1
    predicts, settings = {"maps": batch.maps}, {"eps": 0.5, "ohem_ratio": 1}
    expected = oracle.db(predicts, batch.labels, main_loss_type="BCELoss", **settings)
    check_db(run_db(layer, predicts, batch.labels), expected, TOLERANCE["float32"])


@EITHER_ENGINE
@pytest.mark.parametrize("name, index", [("bce_loss", 0), ("l1_loss", 1), ("dice_loss", 2)])
def test_a_forward_put_in_place_of_a_part_s_own_is_the_one_that_runs(name, index):
    layer = DBLoss()
    part = getattr(layer, name)
    own = part.forward
    part.forward = lambda *args: 2 * own(*args)
    check_one_part_changed(layer, index, lambda _, loss: 2 * loss, lambda grad: 2 * grad)


class Constant(paddle.nn.Layer):
    """A user's own loss: the sum of the prediction times 0.01."""

    def forward(self, pred, gt, mask):
        return 0.01 * pred.sum()


def doubled(base):
    class Doubled(base):
        def forward(self, *args, **kwargs):
            return 2 * super().forward(*args, **kwargs)

    return Doubled


PART = pytest.mark.parametrize(
    "name, index, base",
    [("bce_loss", 0, BalanceLoss), ("l1_loss", 1, MaskL1Loss), ("dice_loss", 2, DiceLoss)],
)


def check_one_part_changed(layer, index, value, grad, **settings):
    """`layer` gives the oracle's numbers, but for part `index` those of `value` and `grad`."""
    batch = make_batch(seed=37)
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, **settings)
    key, maps = oracle.PARTS[index], grads["maps"]
    new = value(batch.maps[:, index], losses[key])
    losses["loss"] += new - losses[key]
    losses[key], maps[:, index] = new, grad(maps[:, index])
    got = run_db(layer, {"maps": batch.maps}, batch.labels)
    check_db(got, (losses, grads), TOLERANCE["float32"])


def check_replaced(name, index, kind):
    layer, weight = DBLoss(main_loss_type=kind), (5, 10, 1)[index]
    setattr(layer, name, Constant())
    check_one_part_changed(
        layer,
        index,
        lambda p, _: weight * 0.01 * p.astype(np.float64).sum(),
        lambda grad: np.full_like(grad, weight * 0.01),
        main_loss_type=kind,
    )


@EITHER_ENGINE
@PART
@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss", "DiceFocalLoss"])
def test_a_replaced_part_is_the_one_that_runs(name, index, base, kind):
    check_replaced(name, index, kind)


def test_a_channel_that_no_sweep_goes_over():
    """Its gradient is that of the part in its place alone."""
    check_replaced("l1_loss", 1, "DiceLoss")


@EITHER_ENGINE
@PART
def test_a_subclass_with_its_own_forward_is_the_one_that_runs(name, index, base):
    layer = DBLoss()
    setattr(layer, name, doubled(base)())
    check_one_part_changed(layer, index, lambda _, loss: 2 * loss, lambda grad: 2 * grad)


@EITHER_ENGINE
@PART
def test_a_hook_before_a_part_fires(name, index, base):
    layer, seen = DBLoss(), []
    getattr(layer, name).register_forward_pre_hook(lambda part, args: seen.append(type(part)))
    check_one_part_changed(layer, index, lambda _, loss: loss, lambda grad: grad)
    assert seen == [base]


@EITHER_ENGINE
@PART
def test_a_hook_after_a_part_fires(name, index, base):
    layer = DBLoss()
    getattr(layer, name).register_forward_post_hook(lambda part, args, out: 3 * out)
    check_one_part_changed(layer, index, lambda _, loss: 3 * loss, lambda grad: 3 * grad)


def test_a_hook_of_the_whole_fires():
    layer, batch = DBLoss(), make_batch()
    layer.register_forward_post_hook(lambda part, args, out: out["loss"])
    _, predicts, labels = graph(batch)
    assert scalar(layer(predicts, labels)) > 0


class ManyModels(DBLoss):
    """DBLoss over the outputs of several models, as PaddleOCR's distillation subclasses it."""

    def __init__(self, model_names, name="db", **kwargs):
        super().__init__()
        self.model_names, self.name, self.key = model_names, name, None

    def forward(self, predicts, labels):
        out = {}
        for model in self.model_names:
            for key, value in super().forward(predicts[model], labels).items():
                if key != "loss":
                    out[f"{self.name}_{model}_{key}"] = value
        out["loss"] = sum(out.values(), 0.0)
        return out


def test_a_subclass_over_several_models():
    batch, other = make_batch(), make_batch(seed=38).maps
    student, teacher = tensor(batch.maps, grad=True), tensor(other, grad=True)
    layer = ManyModels(["student", "teacher"])
    predicts = {"student": {"maps": student}, "teacher": {"maps": teacher}}
    out = layer(predicts, tensors(batch.labels))
    out["loss"].backward()
    total = 0
    for leaf, maps, model in ((student, batch.maps, "student"), (teacher, other, "teacher")):
        losses, grads = oracle.db({"maps": maps}, batch.labels)
        for key in oracle.PARTS:
            assert_value(scalar(out[f"db_{model}_{key}"]), losses[key], TOLERANCE["float32"])
        assert_grad(leaf.grad.numpy(), grads["maps"], TOLERANCE["float32"])
        total += losses["loss"]
    assert_value(scalar(out["loss"]), total, TOLERANCE["float32"])


class FromTeacher(DBLoss):
    """Calls `bce_loss` and `dice_loss` itself, on a target made from the teacher's map."""

    def forward(self, predicts, labels):
        student, teacher = predicts["student"]["maps"], predicts["teacher"]["maps"]
        target = (teacher[:, 0] > 0.3).astype("float32")
        mask = labels[4]
        shrink = self.alpha * self.bce_loss(student[:, 0, :, :], target, mask)
        return {"loss": shrink + self.dice_loss(student[:, 2, :, :], target, mask)}


@pytest.mark.parametrize("kind", FOUR_KINDS)
def test_a_subclass_that_calls_the_parts_itself(kind):
    batch, teacher = make_batch(), make_batch(seed=39).maps
    leaf = tensor(batch.maps, grad=True)
    predicts = {"student": {"maps": leaf}, "teacher": {"maps": tensor(teacher)}}
    layer = FromTeacher(main_loss_type=kind)
    loss = layer(predicts, tensors(batch.labels))["loss"]
    loss.backward()
    target = (teacher[:, 0] > 0.3).astype(np.float32)
    other = Batch(batch.maps, batch.t, 0 * batch.k, target, batch.m)  # no threshold part
    losses, grads = oracle.db({"maps": batch.maps}, other.labels, main_loss_type=kind)
    assert_value(scalar(loss), losses["loss"], TOLERANCE["float32"])
    assert_grad(leaf.grad.numpy(), grads["maps"], TOLERANCE["float32"])


def test_an_own_layer_beside_auxiliary_maps():
    class Mean(paddle.nn.Layer):
        def forward(self, p, g, m):
            return p.mean()

    batch = make_batch()
    criterion = DBLoss(aux_weight_p4=0.3, check_batches=0)
    criterion.dice_loss = Mean()
    maps = tensor(batch.maps)
    out = criterion({"maps": maps, "aux_maps_p4": maps}, tensors(batch.labels))
    first = sum(float(out[f"loss_{name}_maps"]) for name in ("shrink", "threshold", "binary"))
    assert float(out["loss_aux_maps_p4"]) == pytest.approx(first, rel=1e-6)
    assert float(out["loss"]) == pytest.approx(1.3 * first, rel=1e-6)
