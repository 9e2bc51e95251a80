"""Several processes compute one loss: that of their images as one batch.

Paddle's launcher starts three of them once for all tests. (test_train_multi_process.py starts two.)
"""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import programs
import pytest
from helpers import (
    GOLDEN,
    GOLDEN_WEIGHTS,
    TOLERANCE,
    Tolerance,
    assert_grad,
    assert_value,
    golden_batch,
    make_batch,
    run_db,
    scalar,
    tensors,
)
from processes_worker import (
    CASES,
    GOLDEN_CASES,
    GROUPS,
    SIZE,
    STEPS,
    TYPES,
    batches,
    run,
    together,
    train,
    whole,
)

from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss

WORKER = Path(__file__).with_name("processes_worker.py")
LAYERS = (DBLoss, BalanceLoss, DiceFocalLoss, DiceLoss, MaskL1Loss)
SINGLE_PROCESS = Tolerance(1e-5, 1e-4)


class Results(list):
    """What each process has computed, by name."""

    def of(self, name):
        return [results[name] for results in self]

    def loss(self, name):
        """The loss, which every process must have alike."""
        values = self.of(name)
        assert all(value.tobytes() == values[0].tobytes() for value in values), values
        return float(values[0])

    def gradient(self, name):
        """The mean over the processes, as `paddle.DataParallel` takes it, of all their pixels."""
        return together(self.of(name)) / len(self)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What each process has saved, or the error of the launch."""
    folder = tmp_path_factory.mktemp("processes")
    try:
        programs.launch(SIZE, folder, WORKER, folder)
    except AssertionError as error:
        return error
    everything = []
    for rank in range(SIZE):
        with np.load(folder / f"{rank}.npz") as arrays:
            everything.append(dict(arrays))
    return everything


@pytest.fixture
def processes(launched, engine):
    """The results that the processes had with the engine that is asked for here too."""
    if isinstance(launched, AssertionError):
        pytest.skip("the processes failed; test_the_processes_end_well shows why")
    start = f"{engine} "
    return Results(
        {name.removeprefix(start): a for name, a in results.items() if name.startswith(start)}
        for results in launched
    )


def test_the_processes_end_well(launched):
    if isinstance(launched, AssertionError):
        pytest.fail(str(launched), pytrace=False)


# The whole batch --------------------------------------------------------------------------------


def expected(case, batch):
    """The losses of a case, by name, and the gradient of the prediction, from the formulas."""
    if case.layer is DBLoss:
        losses, grads = oracle.db({"maps": batch.maps}, batch.labels, **case.settings)
        return losses, grads["maps"]
    settings = dict(case.settings)
    if case.layer is BalanceLoss:
        kind = settings["main_loss_type"]
        (loss, grad), (origin, slope) = (
            f(*batch.single, kind) for f in (oracle.balance, oracle.origin)
        )
        return {"loss": loss, "origin": origin}, grad + (0 if origin.ndim else slope)
    if case.layer is DiceFocalLoss:
        settings["gamma"] = settings.pop("focal_gamma")
    formula = {
        DiceLoss: oracle.dice,
        MaskL1Loss: oracle.masked_l1,
        DiceFocalLoss: oracle.dice_focal,
    }[case.layer]
    loss, grad = formula(*batch.single, **settings)
    return {"loss": loss}, grad


def check_losses(processes, name, losses, tol):
    for loss, value in losses.items():
        if np.ndim(value):  # a map, of which each process has the pixels of its own images
            got = together(processes.of(f"{name}: {loss}"))
            np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-7)
        elif np.isnan(value):
            assert np.isnan(processes.loss(f"{name}: {loss}")), loss
        else:
            assert_value(processes.loss(f"{name}: {loss}"), value, tol)


def check_gradient(got, want, tol):
    for channel in range(got.shape[1]):
        if np.isfinite(want[:, channel]).all():
            assert_grad(got[:, channel], want[:, channel], tol)
        else:
            assert (np.isfinite(got[:, channel]) == np.isfinite(want[:, channel])).all()


@pytest.mark.parametrize("name", CASES)
def test_whole_batch(processes, name):
    """Against the formulas, and against one process."""
    case = CASES[name]
    batch = whole(batches(case.spread, len(processes)))
    got = processes.gradient(f"{name}: gradient")

    losses, grad = run(case, batch)
    check_losses(processes, name, losses, SINGLE_PROCESS)
    check_gradient(got, grad.reshape(got.shape), SINGLE_PROCESS)

    with np.errstate(invalid="ignore"):
        losses, grad = expected(case, batch)
    if not np.isfinite(batch.maps[:, 0]).all():
        losses |= {"loss": np.nan, "loss_shrink_maps": np.nan}
        got, grad = got[:, 1:], grad[:, 1:]
    check_losses(processes, name, losses, TOLERANCE[case.dtype])
    check_gradient(got, grad.reshape(got.shape), TOLERANCE[case.dtype])


def test_the_cases_are_what_they_are_named():
    ties = batches("ties", SIZE)
    for kind, hardness in (("BCELoss", oracle.bce), ("OHEMDiceLoss", lambda p, g: (p, None))):
        p, g, m = whole(ties).single
        weights = oracle.hard_negative_weights(hardness(p, g)[0], g, m)
        shared = (weights > 0) & (weights < 1)
        parts = np.split(shared.ravel(), np.cumsum([b.g.size for b in ties])[:-1])
        assert all(part.any() for part in parts), kind
    (negative, _) = oracle.dice(*whole(batches("negative Dice", SIZE)).single)
    assert negative < 0
    assert not batches("no text in one", SIZE)[0].g.any()
    assert not batches("one ignored", SIZE)[0].m.any()
    assert [b.g.size > 1 << 17 for b in batches("large and tiny", SIZE)] == [
        True,
        *[False] * (SIZE - 1),
    ]


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_numbers(processes, name):
    case = GOLDEN_CASES[name]
    check_losses(processes, f"golden {name}", case.outputs, GOLDEN)
    predicts, _, grads = golden_batch(case)
    for key in predicts:
        of_key = f"golden {name}: gradient of {key}"
        if key in grads:
            got = np.concatenate(processes.of(of_key), axis=-2)
            check_gradient(got / len(processes), grads[key], GOLDEN)
        else:
            assert of_key not in processes[0]


def test_golden_weighted_dice(processes):
    assert_value(processes.loss("weighted Dice"), GOLDEN_WEIGHTS.output, GOLDEN)
    got = np.concatenate(processes.of("weighted Dice: gradient"), axis=-2)
    assert_grad(got / len(processes), GOLDEN_WEIGHTS.arrays["grad"], GOLDEN)


@pytest.mark.parametrize("kind", TYPES)
def test_gradient_of_a_mix_of_the_parts_accumulates(processes, kind):
    batch = whole(batches("unequal", len(processes)))
    _, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    # The gradient of the oracle is that of the sum of the parts, one to each channel.
    want = 2 * grads["maps"] * np.reshape([2, -3, 0.5], (1, 3, 1, 1))
    check_gradient(processes.gradient(f"mixed {kind}: gradient"), want, TOLERANCE["float32"])


# A part of the batch ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("ranks", GROUPS, ids=str)
def test_a_group(processes, kind, ranks):
    """The processes of a group share a batch."""
    some, shares = Results(processes[rank] for rank in ranks), batches("unequal", SIZE)
    batch = whole([shares[rank] for rank in ranks])
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
    check_losses(some, f"group {kind}", losses, TOLERANCE["float32"])
    got = some.gradient(f"group {kind}: gradient")
    check_gradient(got, grads["maps"], TOLERANCE["float32"])


@pytest.mark.parametrize("kind", TYPES)
def test_without_a_global_batch_each_computes_its_own(processes, kind):
    for results, batch in zip(processes, batches("unequal", len(processes))):
        losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type=kind)
        own = Results([results])
        check_losses(own, f"alone {kind}", losses, TOLERANCE["float32"])
        check_gradient(results[f"alone {kind}: gradient"], grads["maps"], TOLERANCE["float32"])


def test_a_part_without_a_global_batch_may_take_the_place_of_one_with(processes):
    shares = batches("unequal", len(processes))
    batch = whole(shares)
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type="BCELoss")
    for part in oracle.PARTS[:2]:
        assert_value(processes.loss(f"replaced: {part}"), losses[part], TOLERANCE["float32"])
    got = processes.gradient("replaced: gradient")
    check_gradient(got[:, :2], grads["maps"][:, :2], TOLERANCE["float32"])
    for results, own in zip(processes, shares):
        loss, grad = oracle.dice(own.maps[:, 2], own.g, own.m)
        assert_value(results["replaced: loss_binary_maps"], loss, TOLERANCE["float32"])
        got = results["replaced: gradient"][:, 2]
        assert_grad(got, grad, TOLERANCE["float32"])


def test_without_kernels_for_strides(processes):
    """Of a float the bits are then read on the host."""
    batch = whole(batches("unequal", SIZE))
    losses, grads = oracle.db({"maps": batch.maps}, batch.labels, main_loss_type="BCELoss")
    check_losses(processes, "without strides", losses, TOLERANCE["float32"])
    got = processes.gradient("without strides: gradient")
    check_gradient(got, grads["maps"], TOLERANCE["float32"])


def test_hard_negatives_are_those_of_the_own_images(processes):
    for results, batch in zip(processes, batches("unequal", len(processes))):
        want = oracle.hard_negative_weights(*batch.single)
        np.testing.assert_allclose(results["hard negatives"], want, rtol=1e-6)


# Training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_training_is_that_of_one_process(processes, kind):
    want = train(kind)
    for key, value in want.items():
        for got in processes.of(f"training {kind} True: {key}"):
            np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("kind", TYPES)
def test_training_without_a_global_batch_is_another(processes, kind):
    want = train(kind)
    for key in ("gradient 0", f"loss {STEPS - 1}", "weight 0"):
        got = processes.of(f"training {kind} False: {key}")[0]
        assert np.abs(got - want[key]).max() > 1e-2 * np.abs(want[key]).max(), key


# One process alone, and errors ------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_without_parallelism_nothing_changes(engine, kind):
    batch = make_batch("soft", seed=99)
    (losses, grads), (own, own_grads) = (
        run_db(DBLoss(main_loss_type=kind, **settings), {"maps": batch.maps}, batch.labels)
        for settings in ({"global_batch": True}, {})
    )
    assert losses == own
    assert (grads["maps"] == own_grads["maps"]).all()


@pytest.mark.parametrize("layer", LAYERS[1:])
def test_without_parallelism_nothing_changes_for_single_losses(engine, layer):
    pred, *labels = tensors(make_batch("soft", seed=99).single)
    assert scalar(layer(global_batch=True)(pred, *labels)) == scalar(layer()(pred, *labels))


@pytest.mark.parametrize("ranks", GROUPS, ids=str)
def test_a_process_outside_the_group_is_told(processes, ranks):
    for rank in set(range(SIZE)) - set(ranks):
        said = str(processes[rank]["outsider"])
        assert said.startswith(
            f"RuntimeError: group: expected one that holds this process, rank {rank}"
        )
        assert f"got the ranks {ranks}" in said
        assert "leave the group out for all processes" in said


def test_a_static_graph_is_told(processes):
    for said in processes.of("static graph"):
        assert "RuntimeError: global_batch=True: expected eager mode" in str(said)
        assert "call the loss on what it returns" in str(said)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("global_batch", [True, False])
def test_what_is_no_group_is_a_type_error(layer, global_batch):
    for group in (2, "all", [0, 1]):
        with pytest.raises(TypeError, match="group: expected a group of processes or None, got"):
            layer(global_batch=global_batch, group=group)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_group_without_a_global_batch_is_a_value_error(layer):
    group = SimpleNamespace(nranks=2, rank=0, ranks=[0, 1])
    with pytest.raises(ValueError, match=r"group: expected None .*Add global_batch=True"):
        layer(group=group)
