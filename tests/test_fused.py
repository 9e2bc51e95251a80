"""What the fused engine promises beyond its numbers: threads, forks, memory, its environment."""

import logging
import re
import sys
import tracemalloc
from types import ModuleType

import numpy as np
import oracle
import paddle
import programs
import pytest
from helpers import PADDLE, check, make_batch, tensor, tensors

from dbloss import BalanceLoss, DBLoss

pytestmark = pytest.mark.skipif(PADDLE < (3, 0), reason="the fused engine needs Paddle 3")

# One process tries it all, and prints each line at once: what ends it hides nothing before.
PROGRAM = """
import atexit, hashlib, os, sys, threading, warnings
warnings.simplefilter("ignore")
import numpy as np, paddle
from dbloss import DBLoss

def step(seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.random((1, 3, 600, 600), dtype=np.float32)
    maps = paddle.to_tensor(maps, stop_gradient=False)
    text = paddle.to_tensor((rng.random((1, 600, 600)) < 0.1).astype(np.float32))
    soft = paddle.to_tensor(rng.random((1, 600, 600), dtype=np.float32))
    labels = [None, soft, soft, text, 1 - text * soft]
    losses = DBLoss(main_loss_type="BCELoss")({"maps": maps}, labels)
    losses["loss"].backward()
    return float(losses["loss"]).hex() + " " + hashlib.sha256(maps.grad.numpy()).hexdigest()

def say(what, true):
    print(what, bool(true), flush=True)

before = "numba" in sys.modules
here = step()
say("numba is imported on first use", not before and "numba" in sys.modules)

def several_threads():
    alone = [step(seed) for seed in range(4)]
    together = [None] * 4
    def work(seed):
        for _ in range(5):
            together[seed] = step(seed)
    threads = [threading.Thread(target=work, args=[seed]) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return together == alone

say("threads of Python at once", several_threads())

def forked():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, step().encode())
        os._exit(0)
    os.close(writer)
    return b"".join(iter(lambda: os.read(reader, 4096), b"")).decode()

say("a fork after a step", not hasattr(os, "fork") or forked() == here)

from dbloss.targets import make_targets

class Labels(paddle.io.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        box = np.array([[10, 10], [80, 10], [80, 40], [10, 40]]) + index
        return make_targets([box], [False], 64, 96).shrink_map

loader = paddle.io.DataLoader(Labels(), batch_size=1, num_workers=2)
largest = [float(batch[0].max()) for batch in loader]
say("workers of a data loader after a step", largest == [1.0] * 4 and step() == here)

# They are what aborts a process on concurrent use or after a fork.
from numba.np.ufunc import parallel
say("threading layers of numba stay unused", not parallel._is_initialized)

# No helper can be started any more: the calling thread does it all.
def later():
    threading.main_thread().join()
    say("a thread that outlives the main one", step() == here)

threading.Thread(target=later).start()
atexit.register(lambda: say("atexit", step() == here))
"""
PROMISES = (
    "numba is imported on first use",
    "threads of Python at once",
    "a fork after a step",
    "workers of a data loader after a step",
    "threading layers of numba stay unused",
    "a thread that outlives the main one",
    "atexit",
)


def random_batch(shape, data="binary"):
    batch = make_batch(data, shape)
    return batch.maps, tensors(batch.labels)


@pytest.fixture(scope="module")
def done():
    """The program, run to its end by several threads wherever it runs."""
    environment = {"DBLOSS_ENGINE": "fused", "NUMBA_NUM_THREADS": "3"}
    return programs.run("-c", PROGRAM, env=environment)


@pytest.mark.parametrize("promise", PROMISES)
def test_in_a_process_of_its_own(promise, done):
    assert f"{promise} True" in done.stdout.splitlines(), done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["DiceLoss", "BCELoss", "OHEMDiceLoss", "DiceFocalLoss"])
def test_number_of_threads_changes_no_bit(kind, monkeypatch):
    from dbloss.engine import fused

    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    maps, labels = random_batch((2, 400, 500))
    maps = maps.astype(np.float64)  # whose gradients show the last bit of the sums
    labels[4] = labels[1]  # a mask of fractions
    results = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(fused, "_threads", lambda n=threads: n)
        fused._pool.cache_clear()
        leaf = paddle.to_tensor(maps, stop_gradient=False)
        loss = DBLoss(main_loss_type=kind)({"maps": leaf}, labels)["loss"]
        loss.backward()
        results.add((float(loss), leaf.grad.numpy().tobytes()))
    fused._pool.cache_clear()
    assert len(results) == 1


@pytest.mark.parametrize(
    ("kind", "data", "maps_beyond_gradient"),
    # Negatives of fractional labels are chosen in arrays of NumPy, in place of Paddle's tensors,
    # which are not counted here.
    [("DiceLoss", "binary", 0), ("BCELoss", "binary", 1), ("BCELoss", "soft", 4)],
)
def test_memory_of_a_step(kind, data, maps_beyond_gradient, monkeypatch):
    from dbloss.engine import fused

    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    n, h, w = 8, 512, 512
    maps, labels = random_batch((n, h, w), data)
    maps = paddle.to_tensor(maps, stop_gradient=False)
    layer = DBLoss(main_loss_type=kind)
    map_size = 4 * n * h * w

    def step():
        layer({"maps": maps}, labels)["loss"].backward()
        maps.clear_gradient(set_to_zero=False)

    step()  # compiles
    fused._spares.clear()
    tracemalloc.start()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 3 * map_size < peak < (3 + maps_beyond_gradient + 0.5) * map_size


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slices_are_not_copied(dtype, monkeypatch):
    from dbloss.engine import fused

    monkeypatch.setattr(fused, "_FEW", 0)
    leaf = tensor(make_batch().maps, dtype, grad=True)
    memory = np.from_dlpack(leaf.detach())
    for part in (leaf, leaf[:, 2], leaf[1:, :2]):
        rows = fused._rows(part, leaf.dtype)
        assert np.shares_memory(rows, memory) and not rows.flags.writeable


@pytest.mark.parametrize("few", [0, 1 << 14])
def test_rows_of_every_layout(few, monkeypatch):
    """Views and copies hold the same pixels in the same order."""
    from dbloss.engine import fused

    monkeypatch.setattr(fused, "_FEW", few)
    array = np.arange(2 * 3 * 4 * 6, dtype=np.float32).reshape(2, 3, 4, 6)
    whole, turned = tensor(array, "float32", grad=True), array.swapaxes(2, 3)
    for part, expected in (
        (whole, array),
        (whole[:, 1], array[:, 1]),
        (whole[..., ::2], array[..., ::2]),
        (whole[1:, ::2, 1:, ::2], array[1:, ::2, 1:, ::2]),
        (whole.transpose([0, 1, 3, 2]), turned),
        (paddle.to_tensor(turned[:, 0] > 50), turned[:, 0] > 50),
    ):
        rows = fused._rows(part, whole.dtype)
        n, *channels, h, w = expected.shape
        np.testing.assert_array_equal(rows, expected.reshape(n, *(channels or [1]), h * w))
        assert rows.dtype == np.float32 and rows.strides[2] == 4 and not rows.flags.writeable


def test_a_gradient_that_is_kept_is_not_written_over(monkeypatch):
    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    maps, labels = random_batch((1, 32, 32))
    kept = []
    for scale in (1.0, 2.0, 3.0):
        leaf = paddle.to_tensor(maps, stop_gradient=False)
        (scale * DBLoss()({"maps": leaf}, labels)["loss"]).backward()
        kept.append(leaf.grad)
    first, second, third = (gradient.numpy() for gradient in kept)
    np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
    np.testing.assert_allclose(third, 3 * first, rtol=1e-6)


@pytest.mark.parametrize("kind", ["BCELoss", "OHEMDiceLoss"])
def test_labels_whose_negative_weights_only_look_binary(kind, engine):
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, (1, 8, 8)).astype(np.float32)
    g = rng.choice([0, 0.5, 1], p.shape).astype(np.float32)
    m = np.where(g == 0.5, 2, 1).astype(np.float32)  # (1 - g) * m is 0 or 1 everywhere
    pred = paddle.to_tensor(p, stop_gradient=False)
    loss = BalanceLoss(main_loss_type=kind, negative_ratio=0.3)(pred, *tensors([g, m]))
    loss.backward()
    value, gradient = oracle.balance(p, g, m, kind, ratio=0.3)
    np.testing.assert_allclose(float(loss), value, rtol=2e-6)
    np.testing.assert_allclose(pred.grad.numpy(), gradient, rtol=1e-5, atol=1e-9)


# Which negatives are hardest, from a sample ------------------------------------------------------

BOUNDS = [None, (0.0, 0.01), (0.98, 0.99), (0.3, 0.3), (-np.inf, -np.inf), (np.inf, np.inf)]


@pytest.mark.parametrize("kind", ["BCELoss", "Euclidean", "OHEMDiceLoss", "DiceBCELoss"])
@pytest.mark.parametrize("data", ["binary", "ties", "no_text", "all_text", "all_ignored", "zeros"])
def test_the_sample_may_miss_and_the_result_may_not(kind, data, monkeypatch):
    """Bounds from a small sample, and some that are wrong, find the same negatives."""
    from dbloss.engine import fused

    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    p, g, m = make_batch("binary" if data == "zeros" else data, (2, 24, 36), seed=8).single
    if data == "zeros":
        p = np.where(np.random.default_rng(8).random(p.shape) < 0.9, 0, p).astype(np.float32)
    monkeypatch.setattr(fused, "_SAMPLE", 64)
    for bounds in BOUNDS:
        if bounds is not None:
            pair = tuple(map(np.float32, bounds))
            monkeypatch.setattr(fused._Sweeps, "_bounds", lambda *_, pair=pair: pair)
        for ratio in (0.5, 3, 100):
            layer = BalanceLoss(main_loss_type=kind, negative_ratio=ratio, fallback_negatives=30)
            labels = tensors((g, m))
            expected = oracle.balance(p, g, m, kind, ratio=ratio, fallback=30)
            check(lambda x, f=layer, y=labels: f(x, *y), p, expected)


def test_the_second_sample_may_miss_too(monkeypatch):
    """Every third value, which are the ones that it takes of 4,608, is lower than the others."""
    from dbloss.engine import fused

    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    monkeypatch.setattr(fused, "_SAMPLE", 64)
    open_bounds = np.float32(-np.inf), np.float32(np.inf)
    monkeypatch.setattr(fused._Sweeps, "_bounds", lambda *_: open_bounds)
    p = np.random.default_rng(0).uniform(0.5, 0.9, (1, 64, 78)).astype(np.float32)
    p.reshape(-1)[384::3] -= 0.4
    g, m = np.zeros_like(p), np.ones_like(p)
    g.reshape(-1)[:384] = 1
    for ratio in (0.5, 3, 6):
        layer = BalanceLoss(main_loss_type="OHEMDiceLoss", negative_ratio=ratio)
        expected = oracle.balance(p, g, m, "OHEMDiceLoss", ratio=ratio)
        check(lambda x, f=layer: f(x, *tensors((g, m))), p, expected)


def test_bounds_are_narrow_and_hold_what_they_should(monkeypatch):
    """Of half a million pixels few are set aside, and the threshold lies between the bounds."""
    from dbloss.engine import fused

    monkeypatch.setenv("DBLOSS_ENGINE", "fused")
    made = []
    usual = fused._Part.choose
    monkeypatch.setattr(fused._Part, "choose", lambda self, n: made.append(self) or usual(self, n))
    rng = np.random.default_rng(0)
    p = rng.random((2, 512, 512), dtype=np.float32)
    g = (rng.random(p.shape) < 0.06).astype(np.float32)
    BalanceLoss(main_loss_type="OHEMDiceLoss")(*tensors([p, g, np.ones_like(p)]))
    (part,) = made
    threshold = np.sort(p[g == 0])[-3 * int(g.sum())]
    assert part.choice[0] == threshold and part.bounds[0] < threshold < part.bounds[1]
    assert sum(map(len, part.between.values())) < 0.08 * p.size


# Where it runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ImportError("gone")])
def test_without_what_is_kept_on_disk(error, monkeypatch):
    from dbloss.base.compiled import compiled

    def plus_one(x):
        return x + 1

    def refuse(*_):
        raise error

    function = compiled(fastmath=set())(plus_one)
    monkeypatch.setattr(function, "_run", refuse)
    assert function(2) == 3 and function(2.5) == 3.5


def test_a_full_disk_where_a_signature_is_compiled_at_once(monkeypatch):
    from dbloss.base import compiled

    usual = compiled.njit

    def njit(*signature, cache=False, **options):
        if cache:
            raise OSError(28, "No space left on device")
        return usual(*signature, **options)

    monkeypatch.setattr(compiled, "njit", njit)
    assert compiled.compiled("f8(f8)", fastmath=set())(lambda x: x + 1)(2.0) == 3.0


def test_compiling_is_reported_and_loading_is_not(monkeypatch, caplog, tmp_path):
    from numba import config

    from dbloss.base import compiled

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(logging.getLogger("dbloss"), "filters", [])
    # Numba imports the module of what it loads, unless the first of its kind is still in memory.
    monkeypatch.setitem(sys.modules, "dbloss.here", ModuleType("dbloss.here"))
    for reports in (1, 0):
        monkeypatch.setattr(compiled.ANNOUNCER, "said", set())
        for number in (1, 2.0):

            def twice(x):
                return 2 * x

            twice.__module__ = "dbloss.here"
            assert compiled.compiled(fastmath=set())(twice)(number) == 2 * number
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == reports
        assert all(re.match("Compiling the loops of dbloss.here.* later .*", x) for x in said)
        assert all(str(tmp_path) in x for x in said)
        caplog.clear()


def test_the_logarithm_is_as_good_as_it_says():
    """3e-12 of it in float64; in float32 what rounding leaves, near 1 too where 1 - x is given."""
    import math

    from numba import njit

    from dbloss.engine import loops

    log_float64, log_float32 = njit(lambda x, r: loops.log_float64(x, r)), loops.log_float32
    rng = np.random.default_rng(0)
    points = [*10.0 ** rng.uniform(-43, 0, 2000), *rng.uniform(0, 1, 2000), 0.75, 1.5]
    for x in points:
        assert log_float64(x, 1 - x) == pytest.approx(math.log(x), rel=3e-12)
    for rest in [*10.0 ** rng.uniform(-12, -1, 2000), *rng.uniform(0, 1, 2000)]:
        small = np.float32(rest)
        got = log_float32(np.float32(1) - small, small)
        assert got == pytest.approx(math.log1p(-float(small)), rel=3e-7)
    for x in (1e-37, 1e-40, 1e-43):  # what float32 holds in part
        x = np.float32(x)
        assert log_float32(x, np.float32(1)) == pytest.approx(math.log(float(x)), rel=3e-7)
    assert log_float32(np.float32(0), np.float32(1)) == -100 == log_float64(0.0, 1.0)
