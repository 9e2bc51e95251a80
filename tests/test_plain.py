"""The plain formulas, which the benchmark and the self-check hold the losses to."""

import numpy as np
import oracle
import paddle
import pytest
from helpers import (
    GOLDEN_CASES,
    TOLERANCE,
    assert_grad,
    assert_value,
    golden_batch,
    make_batch,
    tensors,
    value_and_grad,
)

from dbloss import _plain


@pytest.mark.parametrize(
    "name", ["default", "no_ignore", "ratio_1", "bce", "bce_ratio_1", "mask_l1_main", "dice_focal"]
)
def test_plain_formulas_against_golden_numbers(name):
    case = GOLDEN_CASES[name]
    predicts, labels, gradients = golden_batch(case)
    maps = paddle.to_tensor(predicts["maps"], stop_gradient=False)
    labels = [None if label is None else paddle.to_tensor(label) for label in labels]
    kind = case.kwargs.get("main_loss_type", "DiceLoss")
    loss = _plain.db_loss(maps, labels, kind, case.kwargs.get("ohem_ratio", 3))
    loss.backward()
    np.testing.assert_allclose(float(loss), case.outputs["loss"], rtol=1e-5)
    expected = gradients["maps"]
    np.testing.assert_allclose(
        maps.grad.numpy(), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("data", ["binary", "no_text", "all_text"])
@pytest.mark.parametrize("ratio", [0, 0.5, 3])
@pytest.mark.parametrize("kind", ["OHEMDiceLoss", "Euclidean"])
def test_plain_formulas_without_golden_numbers(kind, ratio, data):
    batch = make_batch(data, seed=10)
    labels = tensors(batch.labels)
    value, grad = value_and_grad(lambda x: _plain.db_loss(x, labels, kind, ratio), batch.maps)
    settings = {"main_loss_type": kind, "ohem_ratio": ratio}
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, **settings)
    assert_value(value, losses["loss"], TOLERANCE["float32"])
    for channel in range(3):
        assert_grad(grad[:, channel], grads["maps"][:, channel], TOLERANCE["float32"])
