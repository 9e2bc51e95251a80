"""The package gives PaddleOCR's own numbers and gradients."""

import pytest
from helpers import (
    GOLDEN,
    GOLDEN_CASES,
    GOLDEN_WEIGHTS,
    assert_grad,
    assert_value,
    check_db,
    golden_batch,
    run_db,
    tensors,
    value_and_grad,
)

from dbloss import DBLoss, DiceLoss

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_dbloss(name):
    case = GOLDEN_CASES[name]
    predicts, labels, grads = golden_batch(case)
    check_db(run_db(DBLoss(**case.kwargs), predicts, labels), (case.outputs, grads), GOLDEN)


@pytest.mark.parametrize("name", ["default", "bce", "dice_focal", "cbn"])
def test_dbloss_in_float64(name):
    case = GOLDEN_CASES[name]
    predicts, labels, grads = golden_batch(case)
    got = run_db(DBLoss(**case.kwargs), predicts, labels, "float64", "float64")
    check_db(got, (case.outputs, grads), GOLDEN)


def test_dice_weights():
    a = GOLDEN_WEIGHTS.arrays
    g, m, w = tensors((a["gt"], a["mask"], a["weights"]))
    value, grad = value_and_grad(lambda p: DiceLoss()(p, g, m, w), a["pred"])
    assert_value(value, GOLDEN_WEIGHTS.output, GOLDEN)
    assert_grad(grad, a["grad"], GOLDEN)
