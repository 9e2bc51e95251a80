"""The operators engine reads no value on the host."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import make_batch, tensor, tensors

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss, hard_negative_weights

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


class ReadOnTheHostError(Exception):
    pass


@pytest.fixture
def guarded(monkeypatch):
    """The operators engine; call it, and from then on a read raises."""

    def forbid(name):
        def raises(*_args, **_kwargs):
            raise ReadOnTheHostError(name)

        return raises

    monkeypatch.setenv("DBLOSS_ENGINE", "operators")
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
    guarded()
    layer(predicts, labels)["loss"].backward()
    assert maps.grad is not None


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
