"""Every tensor lies where the inputs do, whatever the default device is."""

import itertools

import numpy as np
import oracle
import paddle
import pytest
from helpers import make_batch, tensor, tensors
from paddle.base import framework

from dbloss import BalanceLoss, DBLoss, DiceLoss, differentiable_binarization, hard_negative_weights

MAKERS = {
    "zeros": lambda: paddle.zeros([2]),
    "ones": lambda: paddle.ones([]),
    "full": lambda: paddle.full([], 1.0),
    "arange": lambda: paddle.arange(3),
    "linspace": lambda: paddle.linspace(0, 1, 3),
    "eye": lambda: paddle.eye(2),
    "empty": lambda: paddle.empty([2]),
    "rand": lambda: paddle.rand([2]),
    "to_tensor": lambda: paddle.to_tensor(1.0),
    "to_tensor of an array": lambda: paddle.to_tensor(np.ones(2)),
}


class Nowhere:
    """A device that no tensor can be made on."""


@pytest.fixture
def stranded(monkeypatch):
    """Call it, and the default device is one on which nothing can be made."""
    return lambda: monkeypatch.setattr(framework, "_global_expected_place_", Nowhere())


@pytest.mark.parametrize("name", MAKERS)
def test_a_tensor_made_on_the_default_device_raises(name, stranded):
    MAKERS[name]()
    stranded()
    with pytest.raises((TypeError, ValueError), match="Nowhere"):
        MAKERS[name]()


# The labels decide which way the mining goes, the dtype what is cast.
@pytest.mark.parametrize(
    ("kind", "data", "dtype"),
    [
        *itertools.product(
            oracle.MAIN_LOSS_TYPES, ("binary", "soft", "shifted_noise", "no_text"), ("float32",)
        ),
        *itertools.product(("BCELoss", "DiceFocalLoss"), ("binary",), ("float16", "bfloat16")),
        ("DiceFocalLoss", "soft", "float64"),
    ],
)
def test_dbloss(engine, kind, data, dtype, stranded):
    """The values are those of before: the run was not cut short."""
    batch, layer = make_batch(data, seed=80), DBLoss(main_loss_type=kind, aux_weight_p4=0.5)
    keys = ("maps", "distance_maps", "cbn_maps", "aux_maps_p4")
    predicts = {key: tensor(batch.maps, dtype) for key in keys}
    labels = tensors(batch.labels, "bool" if data == "binary" else "float32")
    losses = {key: float(loss) for key, loss in layer(predicts, labels).items()}
    leaves = {key: tensor(batch.maps, dtype, grad=True) for key in keys}
    stranded()
    out = layer(leaves, labels)
    out["loss"].backward()
    for key in ("maps", "cbn_maps", "aux_maps_p4"):
        assert leaves[key].grad.place.is_cpu_place()
    assert all(loss.place.is_cpu_place() for loss in out.values())
    np.testing.assert_equal({key: float(loss) for key, loss in out.items()}, losses)


def test_the_rest(engine, stranded):
    p, g, m = tensors(make_batch("soft", seed=81).single)
    leaf = tensor(p.numpy(), grad=True)
    stranded()
    for kind in oracle.BALANCED:
        loss, origin = BalanceLoss(main_loss_type=kind, return_origin=True)(leaf, g)
        (loss + origin.mean()).backward()
    DiceLoss()(leaf, g, m, m).backward()
    differentiable_binarization(leaf, m).mean().backward()
    assert hard_negative_weights(p, g, m).place.is_cpu_place()
    assert leaf.grad.place.is_cpu_place()
