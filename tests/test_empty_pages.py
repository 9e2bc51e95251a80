"""A few steps of gradient descent on a page without text, with what teaches there and without."""

import numpy as np
import oracle
import pytest
from helpers import tensor, tensors

from dbloss import DBLoss

DICE_LOSSES = ("DiceLoss", "TverskyLoss", "OHEMDiceLoss")
NO_DICE = tuple(kind for kind in oracle.BALANCED if kind not in DICE_LOSSES)
SMOOTH, FALLBACK = {"smooth": 1.0}, {"fallback_negatives": 50}
UNBALANCED = {"balance_loss": False}
P, B = 0, 2

# Which maps move: the settings, the losses of the probability map, the channels.
CASES = [
    ({}, oracle.BALANCED, ()),
    (SMOOTH, oracle.BALANCED, (B,)),
    (FALLBACK, DICE_LOSSES, ()),
    (FALLBACK, NO_DICE, (P,)),
    (SMOOTH | FALLBACK, oracle.BALANCED, (P, B)),
    ({}, ("DiceFocalLoss",), (P, B)),
    (SMOOTH, ("DiceFocalLoss",), (P, B)),
    (FALLBACK, ("DiceFocalLoss",), (P, B)),
    (UNBALANCED, DICE_LOSSES, ()),
    (UNBALANCED, NO_DICE, (P,)),
    (UNBALANCED | FALLBACK, DICE_LOSSES, ()),
    (UNBALANCED | SMOOTH, oracle.BALANCED, (P, B)),
]


def empty_page():
    """Background of about 0.1 with a block of 36 false positives, in each map."""
    rng = np.random.default_rng(8)
    maps = rng.uniform(0.05, 0.15, (1, 3, 16, 16))
    maps[..., 4:10, 5:11] += 0.6
    empty, one = np.zeros((1, 16, 16)), np.ones((1, 16, 16))
    return maps, tensors([None, 0.3 * one, empty, empty, one])


def descend(maps, labels, steps=4, **settings):
    """The maps before and after each step; the first moves the fastest pixel by 0.02."""
    layer, path, rate = DBLoss(**settings), [np.float32(maps)], None
    for _ in range(steps):
        leaf = tensor(path[-1], grad=True)
        layer({"maps": leaf}, labels)["loss"].backward()
        grad = leaf.grad.numpy()
        rate = rate or 0.02 / (np.abs(grad).max() or 1.0)
        path.append((path[-1] - rate * grad).clip(0, 1))
    return path


@pytest.mark.parametrize(
    ("settings", "kind", "moving"),
    [(settings, kind, moving) for settings, kinds, moving in CASES for kind in kinds],
)
def test_false_positives_go_down(engine, settings, kind, moving):
    maps, labels = empty_page()
    path = descend(maps, labels, main_loss_type=kind, **settings)
    wrong = path[0] > 0.5
    for channel in range(3):
        false_positives = [step[:, channel][wrong[:, channel]] for step in path]
        for before, after, step, stepped in zip(
            false_positives, false_positives[1:], path, path[1:]
        ):
            if channel in moving:
                assert (after < before).all()
                assert (stepped[:, channel] <= step[:, channel]).all()
            else:
                np.testing.assert_array_equal(stepped[:, channel], step[:, channel])
        assert len(false_positives[0]) == 36


@pytest.mark.parametrize("kind", oracle.MINED)
def test_fallback_negatives_is_how_many_pixels_move(engine, kind):
    """The most probable ones, of the mined losses."""
    maps, labels = empty_page()
    settings = {"smooth": 1.0, "fallback_negatives": 20}
    before, after = (
        page[0, P] for page in descend(maps, labels, 1, main_loss_type=kind, **settings)
    )
    moved = after < before
    assert moved.sum() == 20
    assert before[moved].min() > before[~moved].max()


@pytest.mark.parametrize("settings", [SMOOTH, FALLBACK])
def test_a_page_that_is_ignored_teaches_nothing_even_so(engine, settings):
    maps, labels = empty_page()
    labels[4] = labels[4] * 0
    for kind in oracle.MAIN_LOSS_TYPES:
        path = descend(maps, labels, 1, main_loss_type=kind, **settings)
        np.testing.assert_array_equal(path[1], path[0])
