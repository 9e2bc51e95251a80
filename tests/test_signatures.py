"""Names, order and defaults of what callers pass: a configuration of PaddleOCR works unchanged."""

import inspect

import pytest

from dbloss import (
    BalanceLoss,
    DBLoss,
    DiceFocalLoss,
    DiceLoss,
    MaskL1Loss,
    TverskyLoss,
    differentiable_binarization,
    hard_negative_weights,
    validate_batch,
)

NEEDED = inspect.Parameter.empty
SIGNATURES = {
    DBLoss: {
        "balance_loss": True,
        "main_loss_type": "DiceLoss",
        "alpha": 5,
        "beta": 10,
        "ohem_ratio": 3,
        "eps": 1e-6,
        "aux_weight_p4": 0.0,
        "aux_weight_p3": 0.0,
        "aux_weight_p2": 0.0,
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "dice_weight": 1.0,
        "focal_weight": 1.0,
        "fallback_negatives": 0,
        "smooth": 0.0,
        "global_batch": False,
        "group": None,
        "bce_weight": 0.2,
        "check_batches": 1,
        "tversky_alpha": 0.7,
        "tversky_beta": 0.3,
        "tversky_gamma": 1.0,
    },
    DiceLoss: {"eps": 1e-6, "smooth": 0.0, "global_batch": False, "group": None},
    MaskL1Loss: {"eps": 1e-6, "global_batch": False, "group": None},
    BalanceLoss: {
        "balance_loss": True,
        "main_loss_type": "DiceLoss",
        "negative_ratio": 3,
        "return_origin": False,
        "eps": 1e-6,
        "fallback_negatives": 0,
        "smooth": 0.0,
        "global_batch": False,
        "group": None,
        "bce_weight": 0.2,
        "tversky_alpha": 0.7,
        "tversky_beta": 0.3,
        "tversky_gamma": 1.0,
    },
    TverskyLoss: {
        "alpha": 0.7,
        "beta": 0.3,
        "gamma": 1.0,
        "eps": 1e-6,
        "smooth": 0.0,
        "global_batch": False,
        "group": None,
    },
    DiceFocalLoss: {
        "dice_weight": 1.0,
        "focal_weight": 1.0,
        "focal_alpha": 0.75,
        "focal_gamma": 2.0,
        "eps": 1e-6,
        "smooth": 0.0,
        "global_batch": False,
        "group": None,
    },
    differentiable_binarization: {
        "probability_map": NEEDED,
        "threshold_map": NEEDED,
        "k": 50.0,
    },
    hard_negative_weights: {
        "hardness": NEEDED,
        "gt": NEEDED,
        "mask": NEEDED,
        "negative_ratio": 3,
        "fallback_negatives": 0,
    },
    validate_batch: {"predicts": NEEDED, "labels": NEEDED},
}


@pytest.mark.parametrize("public", SIGNATURES)
def test_signature(public):
    """Names, order and defaults; a configuration may hold further keywords for two of them."""
    parameters = dict(inspect.signature(public).parameters)
    further = parameters.pop("kwargs", None)
    assert (further is not None) == (public in (DBLoss, BalanceLoss))
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    assert list(defaults.items()) == list(SIGNATURES[public].items())


@pytest.mark.parametrize(
    ("layer", "parameters"),
    [
        (DiceLoss, {"pred": NEEDED, "gt": NEEDED, "mask": NEEDED, "weights": None}),
        (MaskL1Loss, {"pred": NEEDED, "gt": NEEDED, "mask": NEEDED}),
        (BalanceLoss, {"pred": NEEDED, "gt": NEEDED, "mask": None, "weights": None}),
        (DiceFocalLoss, {"pred": NEEDED, "gt": NEEDED, "mask": None, "weights": None}),
        (DBLoss, {"predicts": NEEDED, "labels": NEEDED}),
    ],
)
def test_signature_of_a_call(layer, parameters):
    own = inspect.signature(layer().forward).parameters
    assert [(key, each.default) for key, each in own.items()] == list(parameters.items())
