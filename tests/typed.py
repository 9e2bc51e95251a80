"""What a type checker lets pass, and what it refuses, as the caller of a loss sees it.

mypy reads it with Paddle's own types. A wrong line bears the name of its error: where mypy finds
none there any more, the comment is the error. What is right runs as a test.
"""

from collections.abc import Mapping
from typing import Any

import paddle
from paddle import Tensor

import dbloss
from dbloss import BalanceLoss, DBLoss, DiceFocalLoss, DiceLoss, MaskL1Loss
from dbloss.losses.db import Losses

CONFIGURATION: dict[str, Any] = {"name": "DBLoss", "main_loss_type": "BCELoss", "colour": "red"}


def right(maps: Tensor, labels: list[Any]) -> None:
    """Nothing here is refused, and all of it runs."""
    losses = DBLoss(main_loss_type="DiceBCELoss", ohem_ratio=5)({"maps": maps}, labels)
    total: Tensor = losses["loss"]
    named: Losses = losses
    parts: Mapping[str, object] = losses
    numbers: dict[str, float] = {"loss": float(total), **dict.fromkeys(parts, 0.0)}
    total.backward()

    loss: Tensor = DBLoss(name="DBLoss")(maps, *labels[1:])
    forward: Losses = DBLoss(**CONFIGURATION).forward({"maps": maps}, labels)

    p, (g, m) = maps[:, 0], labels[3:]
    alone: Tensor = DiceLoss()(p, g, m) + MaskL1Loss()(p, g, mask=m) + DiceFocalLoss()(p, g)
    balanced: Tensor = BalanceLoss(main_loss_type="Euclidean")(p, g, m)
    mean, each = BalanceLoss(main_loss_type="BCELoss", return_origin=True)(p, g)

    picture = dbloss.plot.plot_batch({"maps": maps}, labels, main_loss_type="OHEMDiceLoss")
    history = dbloss.plot.plot_history([losses, forward, numbers])
    boxes = dbloss.boxes.find_boxes(maps, score_mode="slow", box_type="poly")
    del named, loss, alone, balanced, mean, each, picture, history, boxes


def wrong(maps: Tensor, labels: list[Tensor]) -> None:
    """Each line is refused."""
    DBLoss(ohem_ration=5)  # type: ignore[call-arg]
    DBLoss(colour="red")  # type: ignore[call-arg]
    DBLoss(main_loss_type="dice")  # type: ignore[arg-type]
    DBLoss(main_loss_type="diceloss")  # type: ignore[arg-type]
    DBLoss(eps="1e-6")  # type: ignore[arg-type]
    DBLoss()(maps, labels)  # type: ignore[call-overload]
    DBLoss()({"maps": maps}, maps, maps)  # type: ignore[call-overload]
    DBLoss()({"maps": maps}, labels)["loss_shrink_map"]  # type: ignore[typeddict-item]
    DBLoss()({"maps": maps}, labels).backward()  # type: ignore[attr-defined]
    DBLoss()(maps, maps, maps, maps, maps)["loss"]  # type: ignore[index]
    DBLoss().forward({"maps": maps}, labels)["total"]  # type: ignore[typeddict-item]

    DiceLoss(esp=1e-6)  # type: ignore[call-arg]
    DiceLoss()(maps, maps)  # type: ignore[call-arg]
    MaskL1Loss()(maps, maps, masks=maps)  # type: ignore[call-arg]
    BalanceLoss(negative_ration=5)  # type: ignore[call-arg]
    BalanceLoss(main_loss_type="DiceFocalLoss")  # type: ignore[arg-type]
    DiceFocalLoss()(maps, gt=None)  # type: ignore[arg-type]

    dbloss.plto  # type: ignore[attr-defined]  # noqa: B018
    dbloss.plot.plot_batch({"maps": maps}, labels, main_loss_type="BCE")  # type: ignore[arg-type]
    dbloss.boxes.find_boxes(paddle.ones([4, 4]), score_mode="quick")  # type: ignore[arg-type]
