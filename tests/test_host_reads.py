"""The operators engine reads no value on the host."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import check, make_batch, tensor, tensors

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss, hard_negative_weights
from dbloss.engine import operators

READS = ["__int__", "__float__", "__bool__", "__index__", "__array__", "numpy", "item", "tolist"]

TYPES = pytest.mark.parametrize("kind", oracle.MAIN_LOSS_TYPES)
SINGLE = {
    "dice": DiceLoss(),
    "dice_smooth": DiceLoss(smooth=1.0),
    "masked_l1": MaskL1Loss(),
    "dice_focal": DiceFocalLoss(),
    **{kind: BalanceLoss(main_loss_type=kind) for kind in oracle.BALANCED},
    "origin": BalanceLoss(main_loss_type="BCELoss", return_origin=True),
    "unbalanced": BalanceLoss(balance_loss=False, main_loss_type="BCELoss"),
}
LAYERS = pytest.mark.parametrize("layer", SINGLE.values(), ids=list(SINGLE))
KINDS = pytest.mark.parametrize("data", ["binary", "soft", "no_text", "all_ignored", "ties"])

pytestmark = pytest.mark.usefixtures("guarded")


class ReadOnTheHostError(BaseException):
    """No `Exception`, which the look at a first batch would take for a fault of its own."""


@pytest.fixture
def guarded(monkeypatch):
    """The operators engine; call it, and from then on a read raises."""

    def forbid(name):
        def raises(*_args, **_kwargs):
            raise ReadOnTheHostError(name)

        return raises

    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    # As for tensors on a device; those on the CPU may be read.
    monkeypatch.setattr(operators._Sweeps, "_on_host", lambda *_: False)
    with monkeypatch.context() as patch:
        yield lambda: [patch.setattr(paddle.Tensor, name, forbid(name)) for name in READS]


@pytest.mark.parametrize(
    "read", [int, float, bool, np.asarray, *(lambda x, n=n: getattr(x, n)() for n in READS)]
)
def test_a_read_raises(read, guarded):
    one = paddle.to_tensor(1)
    guarded()
    with pytest.raises(ReadOnTheHostError):
        read(one)


@KINDS
@TYPES
def test_dbloss(kind, data, guarded):
    batch = make_batch(data)
    maps, labels = tensor(batch.maps, grad=True), tensors(batch.labels)
    predicts = {"maps": maps, "distance_maps": maps, "cbn_maps": maps, "aux_maps_p4": maps}
    layer = DBLoss(main_loss_type=kind, aux_weight_p4=0.5, fallback_negatives=5)
    layer(predicts, labels)  # it looks at the first batch
    guarded()
    layer(predicts, labels)["loss"].backward()
    assert maps.grad is not None
    with pytest.raises(ReadOnTheHostError):
        DBLoss()(predicts, labels)
    DBLoss(check_batches=0)(predicts, labels)


@KINDS
@LAYERS
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_single_losses(layer, data, dtype, guarded):
    pred, gt, mask = make_batch(data).single
    pred, gt, mask = tensor(pred, dtype, grad=True), tensor(gt), tensor(mask)
    guarded()
    loss = layer(pred, gt, mask)
    sum(part.sum() for part in loss).backward() if isinstance(loss, tuple) else loss.backward()
    assert pred.grad is not None


@KINDS
def test_hard_negatives(data, guarded):
    hardness, gt, mask = tensors(make_batch(data).single)
    guarded()
    assert hard_negative_weights(hardness, gt, mask).shape == hardness.shape


# What is chosen by operators alone -----------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch):
    """The operators engine as it chooses where tensors cannot be read."""
    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
    monkeypatch.setattr(operators._Sweeps, "_on_host", lambda *_: False)


@pytest.mark.parametrize("kind", [*oracle.BALANCED])
@pytest.mark.parametrize(
    "data", ["binary", "soft", "ties", "masks_255", "negative_dice", "no_text"]
)
def test_the_choice_is_the_same(kind, data, elsewhere):
    p, g, m = make_batch(data, seed=70).single
    layer = BalanceLoss(main_loss_type=kind, fallback_negatives=5, smooth=1.0)
    labels = tensors((g, m))
    expected = oracle.balance(p, g, m, kind, fallback=5, smooth=1.0)
    check(lambda x: layer(x, *labels), p, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["BCELoss", "OHEMDiceLoss"])
def test_labels_that_are_not_finite_make_nan(kind, bad, elsewhere):
    p, g, m = make_batch(seed=71).single
    m[0, 0, 0] = bad
    assert np.isnan(float(BalanceLoss(main_loss_type=kind)(*tensors((p, g, m)))))


@pytest.mark.parametrize(
    ("kind", "most"),
    [("DiceLoss", 79), ("BCELoss", 108), ("OHEMDiceLoss", 90), ("DiceFocalLoss", 96)],
)
def test_operators_of_a_step(kind, most, elsewhere, tmp_path, monkeypatch):
    """On a GPU each is a launch. Forward and backward, as Paddle's profiler counts them."""
    monkeypatch.chdir(tmp_path)  # where the profiler writes
    batch = make_batch(shape=(1, 16, 16), seed=71)
    labels, layer = tensors(batch.labels), DBLoss(main_loss_type=kind)
    maps = tensor(batch.maps, grad=True)

    def step():
        maps.clear_gradient()
        layer({"maps": maps}, labels)["loss"].backward()

    step()
    profiler = paddle.profiler.Profiler(targets=[paddle.profiler.ProfilerTarget.CPU])
    profiler.start()
    step()
    profiler.stop()
    nodes, names = list(profiler.profiler_result.get_data().values()), []
    while nodes:
        node = nodes.pop()
        nodes += node.children_node
        names += [node.name] * (node.type == paddle.profiler.TracerEventType.Operator)

    assert 50 < len(names) <= most, len(names)
