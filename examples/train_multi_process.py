"""Train the detector of train_text_detector.py on several processes as one does on one.

    pip install ".[cpu,examples]"                            # beside a GPU wheel without cpu
    cd examples
    python train_multi_process.py                            # one process
    python train_multi_process.py --processes 2
    python -m paddle.distributed.launch --gpus 0,1 train_multi_process.py

However many processes there are, a step takes the same pages, and its losses and gradients are the
same: each process takes its share of the pages, `DBLoss(global_batch=True)` computes the loss of
all of them, and `paddle.DataParallel` takes the mean of the gradients. With `--no-global-batch` a
process computes the loss of its own pages. That is another training: a mean of the losses of parts
is not the loss of the whole.

The output folder then holds the losses of each step, losses.csv, and the weights, model.pdparams.
`--compare` takes the losses.csv of another run and prints how far apart the two are. Ctrl-C ends
all processes; nothing is written then.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import options

if __name__ == "__main__":
    options.multi_process(__doc__).parse_args()  # before the imports below, which take seconds

from dbloss import DBLoss
from train_text_detector import PADDLEOCR, DBNet, Pages, batches, render_page, score, short

import numpy as np
import paddle
from paddle import distributed, nn

HELD_OUT = 100  # pages


def without_batch_norm(layer: nn.Layer) -> nn.Layer:
    """Put a group norm in the place of each batch norm of a layer, and return the layer.

    The statistics of a batch norm are those of the pages that its process has, and so depend on the
    number of processes. A group norm takes those of each page. `nn.SyncBatchNorm`, which shares
    statistics, runs on GPUs alone.
    """
    for name, child in layer.named_children():
        if isinstance(child, nn.BatchNorm2D):
            setattr(layer, name, nn.GroupNorm(4, child.weight.shape[0]))
        else:
            without_batch_norm(child)
    return layer


def train(model: nn.Layer, loss_fn: nn.Layer, pages: Pages, batch: int) -> list[dict[str, float]]:
    """Train on each page once, `batch` pages a step; return the losses of each step."""
    processes, rank = distributed.get_world_size(), distributed.get_rank()
    # Of the pages of a step the first process gets the first ones, the second the next ones.
    sampler = paddle.io.DistributedBatchSampler(pages, batch // processes)
    schedule = paddle.optimizer.lr.CosineAnnealingDecay(7e-3, T_max=len(sampler))
    optimizer = paddle.optimizer.Adam(schedule, parameters=model.parameters())
    parallel = paddle.DataParallel(model) if processes > 1 else model
    history: list[dict[str, float]] = []
    model.train()
    for step, labels in enumerate(batches(pages, sampler), 1):
        losses = loss_fn(parallel(labels[0].astype(paddle.get_default_dtype())), labels)
        losses["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        schedule.step()

        values = paddle.stack(list(losses.values())).detach()
        if processes > 1:
            # With a global batch every process has the same losses, and their mean is each.
            distributed.all_reduce(values)
        history.append(dict(zip(losses, (values / processes).tolist())))
        if rank == 0 and (step % 10 == 0 or step == len(sampler)):
            shown = (f"{short(name)} {loss:.6f}" for name, loss in history[-1].items())
            print(f"step {step}:", *shown, flush=True)
    return history


def save_losses(history: list[dict[str, float]], path: Path) -> None:
    """Write a line for each step, with all digits of a float32."""
    rows = [list(losses.values()) for losses in history]
    np.savetxt(path, rows, "%.9g", delimiter=",", header=",".join(history[0]), comments="")


def read_losses(path: Path) -> np.ndarray:
    """Return the loss of each step, float32 [steps]."""
    return np.loadtxt(path, np.float32, delimiter=",", skiprows=1, usecols=0, ndmin=1)


def compare(losses: np.ndarray, others: np.ndarray) -> str:
    """Tell how far the losses of two runs are apart, as a share of the loss."""
    steps = min(len(losses), len(others))
    apart = np.abs(losses[:steps] / others[:steps] - 1)
    return f"{steps} steps compared: the losses differ by at most {apart.max():.1e} of the loss"


def main() -> None:
    parser = options.multi_process(__doc__)
    args = parser.parse_args()
    started = distributed.get_world_size()  # by Paddle's launcher
    processes = max(started, args.processes)
    if args.steps < 1 or args.seed < 0 or args.processes < 1:
        parser.error("--steps and --processes must be at least 1 and --seed at least 0")
    if started > 1 < args.processes:
        parser.error("--processes starts processes, and Paddle's launcher has started them")
    if args.batch < 1 or args.batch % processes:
        parser.error(f"--batch must be a multiple of the number of processes, {processes}")
    try:
        DBLoss(main_loss_type=args.loss)
        args.out.mkdir(parents=True, exist_ok=True)
        others = read_losses(args.compare) if args.compare else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if started == processes:
        run(args, others)
        return
    os.environ.setdefault("GLOG_minloglevel", "1")  # Paddle tells of each port and each connection
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", "Your model will be trained under CPUONLY mode")
    backend = "nccl" if paddle.is_compiled_with_cuda() else "gloo"
    # As daemons they end with this process, whoever is told to end.
    distributed.spawn(run, (args, others), nprocs=processes, daemon=True, backend=backend)


def run(args: argparse.Namespace, others: np.ndarray | None) -> None:
    """Train, and let the first process say and write what came of it."""
    if distributed.get_world_size() > 1:
        with redirect_stderr(io.StringIO()):  # the flags that Paddle has set by itself
            distributed.init_parallel_env()

    paddle.seed(args.seed)
    paddle.set_default_dtype(args.dtype)
    model = without_batch_norm(DBNet())
    loss_fn = DBLoss(main_loss_type=args.loss, global_batch=args.global_batch)
    history = train(model, loss_fn, Pages(args.seed, args.steps * args.batch), args.batch)
    if distributed.get_rank() > 0:
        return
    model.to(dtype="float32")
    paddle.save(model.state_dict(), str(args.out / "model.pdparams"))
    save_losses(history, args.out / "losses.csv")
    held_out = [render_page(np.random.default_rng([args.seed, 1, i])) for i in range(HELD_OUT)]
    (scores,) = score(model, held_out, PADDLEOCR)
    print("precision {precision:.2f}\nrecall {recall:.2f}\nhmean {hmean:.2f}".format(**scores))
    if scores["recall"] == 0:
        print(f"{args.steps} steps do not find a word yet: some hundred are needed, as the default")
    if others is not None:
        print(compare(read_losses(args.out / "losses.csv"), others))
    print(f"losses and model are in {args.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
