"""What must hold for any shape, mask and value; examples are drawn by hypothesis."""

import numpy as np
import oracle
import pytest
from helpers import Tolerance, assert_value, run_db, tensors, value_and_grad
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss

pytestmark = pytest.mark.usefixtures("engine")

quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    # The engine is chosen once for all examples of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Sixteenths are exact in float32, so that equal values are ties in the oracle as well.
EXACT = st.integers(0, 16).map(lambda i: i / 16)
INSIDE = st.integers(1, 15).map(lambda i: i / 16)
BINARY = st.sampled_from([0.0, 1.0])
SHAPES = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5))


@st.composite
def batches(draw, p=EXACT, g=BINARY, m=BINARY):
    """Prediction, target and mask of one shape."""
    shape = draw(SHAPES)
    return tuple(draw(arrays(np.float32, shape, elements=e)) for e in (p, g, m))


LAYERS = {
    "DiceLoss()": DiceLoss(),
    "MaskL1Loss()": MaskL1Loss(),
    "DiceFocalLoss()": DiceFocalLoss(eps=2.0**-10),
    **{
        kind: BalanceLoss(main_loss_type=kind, negative_ratio=1, fallback_negatives=3)
        for kind in oracle.BALANCED
    },
    "smooth OHEMDiceLoss": BalanceLoss(main_loss_type="OHEMDiceLoss", smooth=0.5),
}
EACH = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def run(layer, batch):
    gt, mask = tensors(batch[1:])
    return value_and_grad(lambda x: layer(x, gt, mask), batch[0])


def assert_close(got, expected, rtol=1e-5):
    assert got[0] == pytest.approx(expected[0], rel=rtol, abs=1e-6)
    scale = np.abs(expected[1]).max()
    np.testing.assert_allclose(got[1], expected[1], rtol=rtol, atol=1e-6 * scale)


@EACH
@quick
@given(batches())
def test_finite_on_binary_labels(layer, batch):
    value, grad = run(layer, batch)
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert value >= 0


@EACH
@quick
@given(batches(g=EXACT, m=EXACT))
def test_finite_on_soft_labels(layer, batch):
    value, grad = run(layer, batch)
    assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("kind", oracle.BALANCED)
@quick
@given(
    batches(p=INSIDE, g=EXACT, m=EXACT),
    st.sampled_from([0, 0.5, 1, 3]),
    st.sampled_from([0, 2]),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
def test_balance_is_that_of_the_oracle(kind, batch, ratio, fallback, smooth, balanced):
    layer = BalanceLoss(
        balanced, kind, ratio, eps=0.125, fallback_negatives=fallback, smooth=smooth
    )
    expected = oracle.balance(*batch, kind, balanced, ratio, 0.125, fallback, smooth)
    assert_close(run(layer, batch), expected)


@quick
@given(batches(g=EXACT, m=EXACT), st.sampled_from([0.5, 1, 3, 100]), st.sampled_from([0, 2, 100]))
def test_mined_dice_is_that_of_the_oracle_at_zero_and_one(batch, ratio, fallback):
    layer = BalanceLoss(
        main_loss_type="OHEMDiceLoss", negative_ratio=ratio, eps=0.125, fallback_negatives=fallback
    )
    assert_close(run(layer, batch), oracle.ohem_dice(*batch, ratio, 0.125, fallback))


@EACH
@quick
@given(batches(), batches(g=EXACT))
def test_masked_out_pixels_are_irrelevant(layer, batch, other):
    m = batch[2]
    changed = [np.where(m == 0, np.resize(b, a.shape), a) for a, b in zip(batch[:2], other)]
    before, after = run(layer, batch), run(layer, (*changed, m))
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert not after[1][m == 0].any()


@EACH
@quick
@given(batches(g=EXACT, m=EXACT), st.randoms(use_true_random=False))
def test_order_of_pixels_is_irrelevant(layer, batch, random):
    order = list(range(batch[0].size))
    random.shuffle(order)
    permuted = [a.reshape(-1)[order].reshape(a.shape) for a in batch]
    value, grad = run(layer, batch)
    assert_close(run(layer, permuted), (value, grad.reshape(-1)[order].reshape(grad.shape)))


@EACH
@quick
@given(batches(p=st.sampled_from([0.25, 0.75])))
def test_like_pixels_have_like_gradients(layer, batch):
    """Ties are shared: pixels of equal prediction, target and mask differ in nothing."""
    _, grad = run(layer, batch)
    grads = {}
    for p, g, m, slope in zip(*(a.reshape(-1).tolist() for a in (*batch, grad))):
        assert grads.setdefault((p, g, m), slope) == slope


@quick
@given(batches(), st.sampled_from([2.0, 0.25]))
def test_dice_lies_in_zero_to_one_and_grows_with_the_mask_alone(batch, factor):
    p, g, m = batch
    value, grad = run(DiceLoss(eps=1e-6), batch)
    assert 0 <= value <= 1 + 1e-6
    scaled = run(DiceLoss(eps=factor * 1e-6), (p, g, factor * m))
    assert_close(scaled, (value, grad))  # only the ratio of mask and eps matters


@pytest.mark.parametrize("kind", oracle.PIXEL_LOSS)
@quick
@given(batches(p=INSIDE))
def test_a_very_large_ratio_is_no_mining(kind, batch):
    p, g, m = batch
    g.flat[0] = m.flat[0] = 1  # some text, so that negatives are taken
    loss, slope = oracle.PIXEL_LOSS[kind](p, g)
    expected = (m * loss).sum() / (m.sum() + 1e-6), m * slope / (m.sum() + 1e-6)
    assert_close(run(BalanceLoss(main_loss_type=kind, negative_ratio=1e9), batch), expected)
    assert_close(run(BalanceLoss(False, kind), batch), expected)


@quick
@given(batches(p=INSIDE))
def test_the_mined_dice_with_a_very_large_ratio_is_the_dice(batch):
    p, g, m = batch
    g.flat[0] = m.flat[0] = 1
    layer = BalanceLoss(main_loss_type="OHEMDiceLoss", negative_ratio=1e9)
    assert_close(run(layer, batch), oracle.dice(p, g, m))


@quick
@given(batches(p=INSIDE, g=EXACT, m=EXACT), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_focal_loss_with_gamma_zero_is_the_weighted_cross_entropy(batch, alpha):
    p, g, m = batch
    loss, slope = oracle.bce(p, g)
    weight = m * (alpha * g + (1 - alpha) * (1 - g)) / (m.sum() + 1e-6)
    layer = DiceFocalLoss(dice_weight=0, focal_alpha=alpha, focal_gamma=0.0)
    assert_close(run(layer, batch), ((weight * loss).sum(), weight * slope))


@pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
@quick
@given(batches(p=INSIDE), batches(p=INSIDE), EXACT, EXACT)
def test_whole_is_the_sum_of_the_parts(kind, batch, other, alpha, beta):
    p, g, m = batch
    q = np.resize(other[0], p.shape)
    predicts = {"maps": np.stack([p, q, 1 - p], axis=1)}
    predicts |= {"aux_maps_p2": predicts["maps"][:, ::-1], "distance_maps": q[:, None]}
    predicts["cbn_maps"] = q[:, None]
    layer = DBLoss(main_loss_type=kind, alpha=alpha, beta=beta, aux_weight_p2=0.5)
    losses, grads = run_db(layer, predicts, [None, q, m, g, m])
    parts = sum(losses[key] for key in (*oracle.PARTS, "loss_cbn"))
    assert_value(losses["loss"], parts + 0.5 * losses["loss_aux_maps_p2"], Tolerance(1e-6, 0))
    assert all(np.isfinite(grads[key]).all() for key in ("maps", "cbn_maps", "aux_maps_p2"))
