"""What each process of test_processes.py computes. The cases are known to both.

Paddle's launcher starts it with a folder, and each process saves its results there by its rank.
"""

import faulthandler
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oracle
import paddle
from helpers import GOLDEN_CASES as ALL_GOLDEN_CASES
from helpers import (
    GOLDEN_WEIGHTS,
    PADDLE,
    Batch,
    golden_batch,
    make_batch,
    run_db,
    tensor,
    tensors,
)
from paddle import distributed, nn
from programs import HANGS

from dbloss import (
    BalanceLoss,
    DBLoss,
    DiceFocalLoss,
    DiceLoss,
    MaskL1Loss,
    hard_negative_weights,
)

ENGINES = ("operators", "fused") if PADDLE >= (3, 0) else ("operators",)
# One loss that is a number, two that are mined, one of two terms: they share their sums otherwise.
TYPES = ("DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss")

# Kind and shape of the batches of the processes 0, 1 and 2.
_SMALL, _SOME, _MANY = (1, 8, 12), (2, 8, 12), (4, 8, 12)
SPREADS = {
    "unequal": (("binary", _SMALL), ("binary", _MANY), ("binary", _SOME)),
    "no text in one": (("no_text", _SOME), ("binary", _SMALL), ("binary", _SOME)),
    "text in one": (("no_text", _SOME), ("binary", _SMALL), ("no_text", _SOME)),
    "fractions in one": (("binary", _SOME), ("soft", _SMALL), ("binary", _SOME)),
    "fractions": (("soft", _SOME), ("soft", _SMALL), ("soft", _MANY)),
    "ties": (("ties", _SOME), ("ties", _SMALL), ("ties", _MANY)),
    "ties at zero": (("zeros", _SOME), ("zeros", _SMALL), ("zeros", _MANY)),
    "one ignored": (("all_ignored", _SOME), ("binary", _SMALL), ("binary", _SOME)),
    "all ignored": (("all_ignored", _SOME), ("all_ignored", _SMALL), ("all_ignored", _SOME)),
    "no text": (("no_text", _SOME), ("no_text", _SMALL), ("no_text", _SOME)),
    "all text": (("all_text", _SOME), ("all_text", _SMALL), ("all_text", _SOME)),
    "masks of 255 in one": (("masks_255", _SMALL), ("binary", _MANY), ("binary", _SOME)),
    "negative Dice": (("negative_dice", _MANY), ("binary", (1, 3, 4)), ("binary", (1, 3, 4))),
    "noise": (("shifted_noise", _SOME), ("shifted_noise", _SMALL), ("shifted_noise", _MANY)),
    # Several blocks of the fused engine in one, less than one in the others.
    "large and tiny": (("binary", (1, 300, 500)), ("binary", (1, 1, 3)), ("binary", (3, 2, 2))),
    "NaN in one": (("binary", _SOME), ("NaN", _SMALL), ("binary", _SOME)),
    "infinity in one": (("infinity", _SOME), ("binary", _SMALL), ("binary", _SOME)),
}


class Case(NamedTuple):
    """A loss, and the batches it gets."""

    layer: type
    settings: dict
    spread: str
    dtype: str = "float32"


def _settings(*kinds, **settings):
    return [{"main_loss_type": kind, **settings} for kind in kinds]


# Dice and the focal loss mine nothing; the order of a negative loss is that of one number alone.
# Outside [0, 1] the focal loss lies at its clip, which float32 does not resolve.
_LEFT_OUT = {
    "BCELoss": ("negative Dice",),
    "OHEMDiceLoss": ("negative Dice",),
    "DiceFocalLoss": ("negative Dice", "ties", "ties at zero", "noise", "no text in one"),
}
_DB = [
    (settings, spread)
    for settings in _settings(*TYPES)
    for spread in SPREADS
    if spread not in _LEFT_OUT.get(settings["main_loss_type"], ())
]
_DB += [
    (settings, spread)
    for settings in _settings(*(kind for kind in oracle.MAIN_LOSS_TYPES if kind not in TYPES))
    for spread in ("unequal", "text in one", "fractions in one", "ties")
]
_DB += [
    (settings, spread)
    for settings in (
        *_settings(*TYPES, fallback_negatives=7, smooth=1.5),
        *_settings("BCELoss", "OHEMDiceLoss", fallback_negatives=7),
    )
    for spread in ("no text", "no text in one")
]
_DB += [
    (settings, "unequal")
    for settings in (
        *_settings(*oracle.MAIN_LOSS_TYPES, balance_loss=False, eps=0.25),
        *_settings("BCELoss", "OHEMDiceLoss", ohem_ratio=0.5, alpha=1.5, beta=0.25),
    )
]
_SINGLE = [
    (DiceLoss, {"smooth": 0.5}),
    (MaskL1Loss, {"eps": 0.25}),
    (DiceFocalLoss, {"focal_gamma": 1.5, "smooth": 0.5}),
    *((BalanceLoss, s) for s in _settings(*oracle.BALANCED, return_origin=True)),
]
_CASES = [
    *(Case(DBLoss, *case) for case in _DB),
    *(Case(DBLoss, s, x, "float64") for s in _settings(*TYPES) for x in ("ties", "fractions")),
    *(Case(*single, x) for single in _SINGLE for x in ("unequal", "ties")),
]


def _name(case):
    settings = " ".join(f"{key}={value}" for key, value in case.settings.items())
    settings = settings.removeprefix("main_loss_type=")
    return f"{case.layer.__name__} {settings}, {case.spread}, {case.dtype}"


CASES = {_name(case): case for case in _CASES}
_CHOSEN = ("default", "ratio_50", "bce", "bce_ratio_1", "mask_l1_main", "dice_focal", "cbn", "aux")
GOLDEN_CASES = {name: ALL_GOLDEN_CASES[name] for name in _CHOSEN}


def batches(spread, size):
    """The batch of each process."""
    made = []
    for rank, (kind, shape) in enumerate(SPREADS[spread][:size]):
        alike = {"NaN": "binary", "infinity": "binary", "zeros": "ties"}
        batch = make_batch(alike.get(kind, kind), shape, 70 + rank)
        if kind == "zeros":
            batch.maps[batch.maps < 0.6] = 0
        elif kind in ("NaN", "infinity"):
            batch.maps[0, 0, 4, 5] = np.nan if kind == "NaN" else np.inf
        made.append(batch)
    return made


def together(arrays):
    """The pixels of several arrays, `[N, C, H, W]` or `[N, H, W]`, as one image of one column.

    No formula asks which image a pixel is of, so that pages of unequal size can stand in one.
    """
    if arrays[0].ndim == 3:
        return np.concatenate([a.ravel() for a in arrays])[None, :, None]
    channels = [a.swapaxes(0, 1).reshape(a.shape[1], -1) for a in arrays]
    return np.concatenate(channels, axis=1)[None, ..., None]


def whole(shares):
    """The batches of all processes as one."""
    return Batch(*(together(arrays) for arrays in zip(*shares)))


def run(case, batch, **processes):
    """The losses of a case, by name, and the gradient of the prediction."""
    layer = case.layer(**case.settings, **processes)
    if case.layer is DBLoss:
        losses, grads = run_db(layer, {"maps": batch.maps}, batch.labels, case.dtype)
        return losses, grads["maps"]
    pred, *labels = batch.single
    leaf = tensor(pred, case.dtype, grad=True)
    out = layer(leaf, *tensors(labels))
    out = dict(zip(("loss", "origin"), out if isinstance(out, tuple) else [out]))
    (out["loss"] + (out["origin"] if has_scalar_origin(out) else 0)).backward()
    return {name: loss.numpy() for name, loss in out.items()}, leaf.grad.numpy()


def has_scalar_origin(out):
    """Whether the loss before the balance is one number, and not a map."""
    return "origin" in out and out["origin"].ndim == 0


def golden_share(case, rank, size):
    """Predictions and labels of a golden case, of which each process gets some rows."""
    predicts, labels, _ = golden_batch(case)
    predicts = {key: rows(a, rank, size) for key, a in predicts.items()}
    return predicts, [None, *(rows(a, rank, size) for a in labels[1:])]


def rows(array, rank, size):
    return np.ascontiguousarray(np.array_split(array, size, axis=-2)[rank])


# Training ---------------------------------------------------------------------------------------

STEPS, CUTS = 4, {1: (0, 6), 3: (0, 1, 4, 6)}


def train(kind, rank=0, size=1, **processes):
    """The weights' gradients of the first step, the weights after a few, and the losses.

    Each process trains on some of six images, all of them on the one that stands alone.
    """
    paddle.seed(5)
    model = nn.Sequential(
        nn.Conv2D(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2D(4, 3, 1), nn.Sigmoid()
    )
    net = paddle.DataParallel(model) if size > 1 else model
    layer = DBLoss(main_loss_type=kind, **processes)
    optimizer = paddle.optimizer.Momentum(0.05, parameters=model.parameters())
    mine = slice(*CUTS[size][rank : rank + 2])
    results = {}
    for step in range(STEPS):
        batch = make_batch("binary", (6, 8, 12), seed=90 + step)
        images = np.stack([batch.g + 0.3 * batch.t, batch.k], axis=1)[mine]
        losses = layer({"maps": net(tensor(images))}, [None, *(tensor(a[mine]) for a in batch[1:])])
        losses["loss"].backward()
        if step == 0:
            for i, weight in enumerate(model.parameters()):
                results[f"gradient {i}"] = weight.grad.numpy()
        optimizer.step()
        optimizer.clear_grad()
        results[f"loss {step}"] = losses["loss"].numpy()
    for i, weight in enumerate(model.parameters()):
        results[f"weight {i}"] = weight.numpy()
    return results


# What a process does ----------------------------------------------------------------------------

SIZE = 3
GROUPS = ([0, 2], [1])  # one of them of a single process


def compute(rank, size, groups):
    """The results of this process with one engine: pairs of a name and an array."""
    for name, case in CASES.items():
        losses, grad = run(case, batches(case.spread, size)[rank], global_batch=True)
        yield from ((f"{name}: {loss}", value) for loss, value in losses.items())
        yield f"{name}: gradient", grad

    for name, case in GOLDEN_CASES.items():
        losses, grads = run_db(
            DBLoss(**case.kwargs, global_batch=True), *golden_share(case, rank, size)
        )
        yield from ((f"golden {name}: {loss}", value) for loss, value in losses.items())
        for key, grad in grads.items():
            if grad is not None:  # as of maps that nothing reads
                yield f"golden {name}: gradient of {key}", grad
    arrays = GOLDEN_WEIGHTS.arrays
    pred, *labels = (rows(arrays[key], rank, size) for key in ("pred", "gt", "mask", "weights"))
    leaf = tensor(pred, grad=True)
    loss = DiceLoss(global_batch=True)(leaf, *tensors(labels))
    loss.backward()
    yield from (("weighted Dice", loss.numpy()), ("weighted Dice: gradient", leaf.grad.numpy()))

    batch = batches("unequal", size)[rank]
    predicts, labels = {"maps": batch.maps}, tensors(batch.labels)
    (own,) = (group for ranks, group in zip(GROUPS, groups) if rank in ranks)
    (foreign,) = (group for group in groups if group is not own)
    for kind in TYPES:
        for name, settings in {"group": {"global_batch": True, "group": own}, "alone": {}}.items():
            losses, grads = run_db(DBLoss(main_loss_type=kind, **settings), predicts, labels)
            yield from ((f"{name} {kind}: {loss}", value) for loss, value in losses.items())
            yield f"{name} {kind}: gradient", grads["maps"]

        leaf = tensor(batch.maps, grad=True)
        layer = DBLoss(main_loss_type=kind, global_batch=True)
        for _ in range(2):
            out = layer({"maps": leaf}, labels)
            sum(f * out[part] for f, part in zip((2, -3, 0.5), oracle.PARTS)).backward()
        yield f"mixed {kind}: gradient", leaf.grad.numpy()

    mixed = DBLoss(main_loss_type="BCELoss", global_batch=True)
    mixed.dice_loss = DiceLoss()
    losses, grads = run_db(mixed, predicts, labels)
    yield from ((f"replaced: {loss}", value) for loss, value in losses.items())
    yield "replaced: gradient", grads["maps"]

    paddle.set_flags({"FLAGS_use_stride_kernel": False})
    losses, grads = run_db(DBLoss(main_loss_type="BCELoss", global_batch=True), predicts, labels)
    yield from ((f"without strides: {loss}", value) for loss, value in losses.items())
    yield "without strides: gradient", grads["maps"]
    paddle.set_flags({"FLAGS_use_stride_kernel": True})

    yield "hard negatives", hard_negative_weights(*tensors(batch.single)).numpy()

    for kind in TYPES:
        for one_batch in (True, False):
            for key, value in train(kind, rank, size, global_batch=one_batch).items():
                yield f"training {kind} {one_batch}: {key}", value

    outside = DBLoss(global_batch=True, group=foreign)
    yield "outsider", said_by(lambda: run_db(outside, predicts, labels))
    graph = paddle.jit.to_static(DBLoss(global_batch=True), full_graph=True)
    yield "static graph", said_by(lambda: graph({"maps": tensor(batch.maps)}, labels))


def said_by(call):
    """The error that a call raises, as text."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def main():
    # A process that waits for another in vain shall say where, and end: the launcher ends the rest.
    faulthandler.dump_traceback_later(HANGS - 60, exit=True)
    distributed.init_parallel_env()
    rank, size = distributed.get_rank(), distributed.get_world_size()
    groups = [distributed.new_group(ranks) for ranks in GROUPS]
    results = {}
    for engine in ENGINES:
        os.environ["DBLOSS_ENGINE"] = engine
        for name, value in compute(rank, size, groups):
            results[f"{engine} {name}"] = np.asarray(value)
    np.savez(Path(sys.argv[1]) / f"{rank}.npz", **results)


if __name__ == "__main__":
    main()
