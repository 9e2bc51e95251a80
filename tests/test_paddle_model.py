"""`paddle.Model` trains with `DBLoss`: it passes the labels one by one and wants a tensor."""

from pathlib import Path

import numpy as np
import paddle
import programs
import pytest
from helpers import PADDLE, make_batch, scalar, tensor, tensors

from dbloss import DBLoss

# Paddle's own: it copies what its loader gives.
pytestmark = pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")

BATCHES = [make_batch(shape=(2, 8, 12), seed=seed) for seed in (80, 81)]


class Scale(paddle.nn.Layer):
    """Maps times a number that is learnt; a dict of them, as a head of PaddleOCR returns it."""

    def __init__(self, as_dict):
        super().__init__()
        self.factor = self.create_parameter(
            [1], default_initializer=paddle.nn.initializer.Constant(0.9)
        )
        self.as_dict = as_dict

    def forward(self, maps):
        return {"maps": maps * self.factor} if self.as_dict else maps * self.factor


def step_by_hand(network, optimizer, batch):
    losses = DBLoss(main_loss_type="BCELoss")(
        {"maps": network.factor * tensor(batch.maps)}, tensors(batch.labels)
    )
    losses["loss"].backward()
    optimizer.step()
    optimizer.clear_grad()
    return scalar(losses["loss"])


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_training_step_is_that_of_a_loop_of_ones_own(as_dict, engine):
    network, own = Scale(as_dict), Scale(as_dict)
    model = paddle.Model(network)
    model.prepare(
        paddle.optimizer.SGD(0.01, parameters=network.parameters()),
        loss=DBLoss(main_loss_type="BCELoss"),
    )
    optimizer = paddle.optimizer.SGD(0.01, parameters=own.parameters())
    for batch in BATCHES:
        (loss,) = model.train_batch([batch.maps], list(batch.labels[1:]))
        assert float(loss) == step_by_hand(own, optimizer, batch)
        assert network.factor.item() == own.factor.item() != np.float32(0.9)


class Pages(paddle.io.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        batch, image = BATCHES[index // 2], index % 2
        return (batch.maps[image], *(label[image] for label in batch.labels[1:]))


def test_fit_and_evaluate():
    network = Scale(as_dict=False)
    model = paddle.Model(network)
    model.prepare(paddle.optimizer.SGD(0.01, parameters=network.parameters()), loss=DBLoss())
    model.fit(Pages(), Pages(), batch_size=2, epochs=2, shuffle=False, verbose=0)
    (loss,) = model.evaluate(Pages(), batch_size=2, verbose=0)["loss"]
    last = BATCHES[1]
    with paddle.no_grad():
        own = DBLoss()({"maps": network.factor * tensor(last.maps)}, tensors(last.labels))
    assert loss == scalar(own["loss"])
    assert model.predict(Pages(), batch_size=2, verbose=0)[0][1].shape == last.maps.shape


def test_a_subclass_with_the_call_of_paddleocr():
    class Doubled(DBLoss):
        def forward(self, predicts, batch):
            return {"loss": 2 * super().forward(predicts, batch)["loss"]}

    batch = BATCHES[0]
    maps, labels = tensor(batch.maps, grad=True), tensors(batch.labels)
    assert scalar(Doubled()(maps, *labels[1:])) == 2 * scalar(DBLoss()(maps, *labels[1:]))


def test_what_it_is_not_passed_right_is_said():
    batch = BATCHES[0]
    maps, labels = tensor(batch.maps), tensors(batch.labels)
    with pytest.raises(ValueError, match=r"labels: expected 5 entries .* got 4"):
        DBLoss()(maps, *labels[1:4])
    with pytest.raises(TypeError, match="predicts: expected a dict"):
        DBLoss()(maps, labels)  # two arguments are those of PaddleOCR
    with pytest.raises(ValueError, match=r"labels\[1\] .* shape of an image"):
        DBLoss()(maps, maps, *labels[2:])


STATIC = """
import paddle
from helpers import make_batch
from test_paddle_model import Scale
from dbloss import DBLoss

paddle.enable_static()
batch, spec = make_batch(shape=(2, 8, 12), seed=80), paddle.static.InputSpec
network = Scale(as_dict=False)
labels = [spec([None, 8, 12], "float32", name) for name in "tkgm"]
model = paddle.Model(network, spec([None, 3, 8, 12], "float32", "maps"), labels)
optimizer = paddle.optimizer.SGD(0.01, parameters=network.parameters())
model.prepare(optimizer, loss=DBLoss(main_loss_type="BCELoss"))
for _ in range(2):
    print(float(model.train_batch([batch.maps], list(batch.labels[1:]))[0]))
"""


@pytest.mark.skipif(PADDLE < (3, 0), reason="Paddle 2 takes no loss into a static graph")
def test_in_a_static_graph():
    done = programs.run("-W", "ignore", "-c", STATIC, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    network = Scale(as_dict=False)
    optimizer = paddle.optimizer.SGD(0.01, parameters=network.parameters())
    expected = [step_by_hand(network, optimizer, BATCHES[0]) for _ in range(2)]
    np.testing.assert_allclose([float(line) for line in done.stdout.split()], expected, rtol=1e-5)
