"""The loss of a Differentiable Binarization detector: splits the maps, calls its parts, adds."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, cast, get_args, overload

import paddle
from paddle import Tensor, nn

from dbloss.base import checks
from dbloss.base.processes import Processes
from dbloss.base.static import untraced, untranslated
from dbloss.base.tensors import without_amp
from dbloss.batch import arguments
from dbloss.batch.first import Expected, FirstBatches
from dbloss.engine import evaluate
from dbloss.engine.mining import Pixels
from dbloss.losses.balance import ALL_MINED, PIXEL_LOSSES, BalancedType, BalanceLoss
from dbloss.losses.dice import DiceLoss
from dbloss.losses.focal import DiceFocalLoss
from dbloss.losses.layer import Further, LossLayer, weighted_mask
from dbloss.losses.mask_l1 import MaskL1Loss
from dbloss.losses.tversky import TverskyLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack

MainLossType = Literal[BalancedType, "DiceFocalLoss"]
_LEVELS = ("p4", "p3", "p2")
_PART_NAMES = ("loss_shrink_maps", "loss_threshold_maps", "loss_binary_maps")
_OWN_LAYERS = (BalanceLoss, DiceFocalLoss, DiceLoss, MaskL1Loss, TverskyLoss)


class _Parts(TypedDict):
    loss: Tensor
    loss_shrink_maps: Tensor
    loss_threshold_maps: Tensor
    loss_binary_maps: Tensor


class Losses(_Parts, total=False):
    """What `DBLoss` returns, for type checkers: a plain dict of 0-D float32 tensors.

    `loss` is the total, `loss_shrink_maps`, `loss_threshold_maps` and `loss_binary_maps` are its
    weighted parts. The others are there where the prediction holds their maps.
    """

    loss_cbn: Tensor
    loss_aux_maps_p4: Tensor
    loss_aux_maps_p3: Tensor
    loss_aux_maps_p2: Tensor


class _Call(NamedTuple):
    """A layer and its pixels, the part of the total that its loss belongs to, and weights."""

    layer: Any
    pixels: Pixels
    part: str
    weight: float  # of the loss in the part
    in_total: float  # of the part in the total

    def weighs(self, name: str) -> float:
        """Return what the loss weighs in a part, or in the total, `"loss"`."""
        return self.weight * (self.in_total if name == "loss" else name == self.part)


@untraced
class DBLoss(LossLayer):
    """Loss of a DB text detector: `alpha * L_s + beta * L_t + L_b`.

    `L_s` is the balanced loss of the probability map, `L_t` the masked L1 loss of the threshold
    map, `L_b` the Dice loss of the approximate binary map. Names, defaults, numbers and gradients
    are PaddleOCR's.

    Args:
        balance_loss: False takes the loss of the probability map without balance.
        main_loss_type: the loss of the probability map. From trained weights take `"TverskyLoss"`:
            fine-tuned with it, PP-OCRv4's detector found more words than with the default, and
            with cross-entropy or focal loss it found fewer.

            - `"DiceLoss"`, `"MaskL1Loss"`: one number for the batch; mining has no effect on it.
            - `"TverskyLoss"`: Dice in which a false find weighs more than a miss, or less.
            - `"BCELoss"`, `"CrossEntropy"` (the same), `"Euclidean"` (squared error): a loss of
              each pixel, over the positives and the hardest negatives.
            - `"OHEMDiceLoss"`: Dice over the positives and the hardest negatives.
            - `"DiceBCELoss"`: that of `"DiceLoss"` plus `bce_weight` times that of `"BCELoss"`.
            - `"DiceFocalLoss"`: Dice plus focal loss, without mining, for the binary map too.

            From scratch, `"BCELoss"` and `"OHEMDiceLoss"` want a probability map that starts as
            background, with a bias of -4 in its last layer, before the sigmoid: from 0.5
            everywhere both go to nearly one number for all pixels, and only the first leaves it.
        alpha: weight of `L_s`, at least 0.
        beta: weight of `L_t`, at least 0.
        ohem_ratio: hard negatives for each positive, at least 0.
        eps: added to every denominator, above 0.
        aux_weight_p4: weight of the loss on `predicts["aux_maps_p4"]`, at least 0; 0 leaves it out.
        aux_weight_p3: the same for `aux_maps_p3`.
        aux_weight_p2: the same for `aux_maps_p2`.
        focal_alpha: as in `DiceFocalLoss`, which alone reads it; the default is PaddleOCR's, 0.25
            here and 0.75 there.
        focal_gamma: as in `DiceFocalLoss`, which alone reads it.
        dice_weight: as in `DiceFocalLoss`, which alone reads it.
        focal_weight: as in `DiceFocalLoss`, which alone reads it.
        fallback_negatives: number of hard negatives where the batch has no text, at least 0. On
            such a batch it pushes the probability map down for `BCELoss`, `CrossEntropy`,
            `DiceBCELoss`, `Euclidean` and `MaskL1Loss`; for `DiceLoss`, `TverskyLoss` and
            `OHEMDiceLoss` only together with `smooth`, since without text they are 1 whatever is
            predicted.
            `DiceFocalLoss` needs neither and does not read it, and nothing does with
            `balance_loss=False`.
        smooth: as in `DiceLoss`; it reaches every Dice loss and `TverskyLoss`. On a batch without
            text it pushes the binary map down. The balanced loss of the probability map also needs
            `fallback_negatives` there: without negatives it has no gradient. With 0 for both, such
            a batch changes neither map, except with `DiceFocalLoss`, or with `balance_loss=False`
            and a loss other than Dice and Tversky.
        global_batch: True takes the images of all processes for one batch, so that sums, counts and
            the limit of mining are those of the whole. Each process passes its own images, of any
            number, and gets the loss of the whole batch. Its gradient is multiplied by the number
            of processes: the mean of the gradients, which `paddle.DataParallel` takes, is then
            the gradient of one process on the whole batch. Without
            `paddle.distributed.init_parallel_env` it changes nothing. Every process must call the
            loss, with the same settings, engine and dtype, since each waits for the sums of the
            others.
        group: the processes of a global batch, from `paddle.distributed.new_group`; None for all.
        bce_weight: weight of the cross-entropy in `"DiceBCELoss"`, which alone reads it, at least
            0.
        check_batches: number of first batches to look at, at least 0. What `validate_batch` would
            find wrong with them the logger `dbloss` says, once, and from one process; nothing is
            raised. Where nothing is, it says of a loss that is only mined whether its map starts as
            background, and of one with a logarithm whether P is next to 0 on the text. It reads
            these batches on the host, and no later one. Not in static graphs.
        tversky_alpha: what a false find weighs in `"TverskyLoss"`, which alone reads it, at least
            0; as `alpha` in `TverskyLoss`. The binary map keeps Dice.
        tversky_beta: what a miss weighs there, at least 0.
        tversky_gamma: the power there, above 0.
        **kwargs: anything else is left unused, and the logger `dbloss` names it; `name` passes
            silently.

    Attributes:
        bce_loss: layer of `L_s`, called as `bce_loss(pred, gt, mask)`, and with `weights=` where
            the labels hold `text_weights`.
        l1_loss: layer of `L_t`, called as `l1_loss(pred, gt, mask)`.
        dice_loss: layer of `L_b`, called as `bce_loss` is. Each may be replaced.

    Raises:
        TypeError: a hyperparameter is of the wrong type, or a keyword is close to a known one and
            not it, such as `ohem_ration`.
        ValueError: a hyperparameter is out of its range, `main_loss_type` is unknown, or there is a
            group without a global batch.

    Example:
        >>> import paddle
        >>> from dbloss import DBLoss
        >>> maps = paddle.full([1, 3, 4, 4], 0.5)
        >>> text = paddle.zeros([1, 4, 4])
        >>> text[:, 1:3] = 1
        >>> every = paddle.ones([1, 4, 4])
        >>> losses = DBLoss()({"maps": maps}, [None, 0.3 * every, every, text, every])
        >>> {name: round(float(loss), 4) for name, loss in losses.items()}
        {'loss': 5.0, 'loss_shrink_maps': 2.5, 'loss_threshold_maps': 2.0, 'loss_binary_maps': 0.5}

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization",
        AAAI 2020, equation 7, where alpha weighs the binary map and the probability map has no
        weight; PaddleOCR `ppocr/losses/det_db_loss.py`, whose weights these are.
    """

    def __init__(
        self,
        balance_loss: bool = True,
        main_loss_type: MainLossType = "DiceLoss",
        alpha: float = 5,
        beta: float = 10,
        ohem_ratio: float = 3,
        eps: float = 1e-6,
        aux_weight_p4: float = 0.0,
        aux_weight_p3: float = 0.0,
        aux_weight_p2: float = 0.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        dice_weight: float = 1.0,
        focal_weight: float = 1.0,
        fallback_negatives: int = 0,
        smooth: float = 0.0,
        global_batch: bool = False,
        group: Any = None,
        bce_weight: float = 0.2,
        check_batches: int = 1,
        tversky_alpha: float = 0.7,
        tversky_beta: float = 0.3,
        tversky_gamma: float = 1.0,
        **kwargs: "Unpack[Further]",
    ) -> None:
        super().__init__(global_batch, group)
        self._first_batches = FirstBatches(checks.whole("check_batches", check_batches, least=0))
        checks.choice("main_loss_type", main_loss_type, get_args(MainLossType))
        self.alpha = checks.number("alpha", alpha, least=0)
        self.beta = checks.number("beta", beta, least=0)
        self.aux_weight_p4 = checks.number("aux_weight_p4", aux_weight_p4, least=0)
        self.aux_weight_p3 = checks.number("aux_weight_p3", aux_weight_p3, least=0)
        self.aux_weight_p2 = checks.number("aux_weight_p2", aux_weight_p2, least=0)
        # BalanceLoss checks it too, but under another name.
        checks.number("ohem_ratio", ohem_ratio, least=0)
        checks.unknown(DBLoss, kwargs)
        # A part that is not chosen checks its settings too: an error shows at once.
        with_focal = main_loss_type == "DiceFocalLoss"
        shared = {"global_batch": global_batch, "group": group}
        focal = DiceFocalLoss(
            dice_weight,
            focal_weight,
            focal_alpha,
            focal_gamma,
            eps if with_focal else 1e-6,  # the focal loss takes no eps of 0.5 or more
            smooth,
            **shared,
        )
        balance = BalanceLoss(
            balance_loss,
            "DiceLoss" if main_loss_type == "DiceFocalLoss" else main_loss_type,
            ohem_ratio,
            eps=eps,
            fallback_negatives=fallback_negatives,
            smooth=smooth,
            bce_weight=bce_weight,
            tversky_alpha=tversky_alpha,
            tversky_beta=tversky_beta,
            tversky_gamma=tversky_gamma,
            **shared,
        )
        self.bce_loss = focal if with_focal else balance
        self.l1_loss = MaskL1Loss(eps, **shared)
        self.dice_loss = focal if with_focal else DiceLoss(eps, smooth, **shared)

    @overload
    def __call__(self, predicts: Mapping[str, Tensor], labels: Sequence[Any]) -> Losses: ...

    @overload
    def __call__(
        self,
        predicts: Tensor | Mapping[str, Tensor],
        threshold_map: Tensor,
        threshold_mask: Tensor,
        shrink_map: Tensor,
        shrink_mask: Tensor,
        text_weights: Tensor = ...,
        /,
    ) -> Tensor: ...

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Return what `forward` does, or the total where labels come one by one.

        `paddle.Model` calls `loss(maps, threshold_map, threshold_mask, shrink_map, shrink_mask)`:
        maps may be a tensor or a dict, the image is not among the labels, and a tensor is wanted.
        """
        # A subclass may take more than two itself.
        if len(inputs) <= 2 or len(inspect.signature(type(self).forward).parameters) > 3:
            return super().__call__(*inputs, **kwargs)
        predicts, *labels = inputs
        maps = {"maps": predicts} if paddle.is_tensor(predicts) else predicts
        return super().__call__(maps, [None, *labels], **kwargs)["loss"]

    @untranslated
    def forward(self, predicts: Mapping[str, Tensor], labels: Sequence[Any]) -> Losses:
        """Return the total, `"loss"`, and the weighted parts it is the sum of.

        Args:
            predicts: holds `"maps"`, float `[N, 3, H, W]`, in [0, 1]: the probability, threshold
                and binary map. With `"distance_maps"` it also holds `"cbn_maps"`,
                `[N, C, H, W]`, whose channel 0 goes through the loss of the probability map. For
                each auxiliary weight above 0 it may hold maps of that name, `[N, 3, H, W]`.
            labels: `[image, threshold_map, threshold_mask, shrink_map, shrink_mask]`, each but the
                image `[N, H, W]`; float, bool or integer. The image is not read. A sixth,
                `text_weights`, above 0, is what a pixel weighs in the losses of the probability and
                the binary map; it changes no count of positives and negatives.

        Returns:
            `loss`, `loss_shrink_maps` (`alpha * L_s`), `loss_threshold_maps` (`beta * L_t`) and
            `loss_binary_maps` (`L_b`); `loss_cbn`, weight 1, where there are such maps; and
            `loss_aux_maps_p4` and so on, before their weight. 0-D float32 tensors.

        Raises:
            TypeError: an argument is not what is described here, or not a tensor of those dtypes.
            ValueError: a key, a label or a channel is missing, shapes differ, a map is empty, a
                label requires a gradient, or `DBLOSS_ENGINE` names no engine.
            RuntimeError: this process is not one of the group, or `DBLOSS_ENGINE` asks for an
                engine that cannot run.
        """
        with without_amp():
            return cast(Losses, self._losses(predicts, labels))

    def _losses(self, predicts: Mapping[str, Tensor], labels: Sequence[Any]) -> dict[str, Tensor]:
        self._first_batches.look(predicts, labels, self._expected)
        maps = arguments.maps(predicts)
        threshold_map, threshold_mask, shrink_map, shrink_mask, *more = arguments.labels(
            labels, maps
        )
        text_weights = more[0] if more else None
        given = {"maps": maps}
        if "distance_maps" in predicts:
            given["cbn_maps"] = arguments.maps(predicts, "cbn_maps", channels=1, like=maps)
        weights = {f"aux_maps_{level}": getattr(self, f"aux_weight_{level}") for level in _LEVELS}
        for name, weight in weights.items():
            if weight > 0 and name in predicts:
                given[name] = arguments.maps(predicts, name, like=maps)
        mask = weighted_mask(shrink_mask, text_weights, *given.values())
        text = shrink_map, mask, shrink_mask
        border = threshold_map, threshold_mask, threshold_mask
        calls = []
        for name, tensor in given.items():
            shrink = Pixels(tensor, 0, *text)
            if name == "cbn_maps":
                calls.append(_Call(self.bce_loss, shrink, "loss_cbn", 1, 1))
                continue
            part, weight = f"loss_{name}", weights.get(name, 1)
            threshold, binary = Pixels(tensor, 1, *border), Pixels(tensor, 2, *text)
            parts = _PART_NAMES if name == "maps" else (part, part, part)
            calls += [
                _Call(self.bce_loss, shrink, parts[0], self.alpha, weight),
                _Call(self.l1_loss, threshold, parts[1], self.beta, weight),
                _Call(self.dice_loss, binary, parts[2], 1, weight),
            ]
        return self._evaluated(calls, text_weights)

    def _expected(self) -> Expected:
        """Return what this loss makes of a batch."""
        parts = self.bce_loss, self.l1_loss, self.dice_loss
        balance, _, binary = parts
        name, balanced = "", False
        if isinstance(balance, BalanceLoss):
            name, balanced = balance.main_loss_type, balance.balance_loss
        elif isinstance(balance, DiceFocalLoss):
            name = "DiceFocalLoss"
        learns_without_text = (
            self._processes().size > 1
            or (name in ("MaskL1Loss", *PIXEL_LOSSES) and not balanced)
            or any(
                getattr(part, setting, 0) > 0
                for part in (balance, binary)
                for setting in ("smooth", "fallback_negatives", "focal_weight")
            )
        )
        weight_of_logarithm = {
            "DiceBCELoss": getattr(balance, "bce_weight", 0),
            "DiceFocalLoss": getattr(balance, "focal_weight", 0),
        }.get(name, name in ("BCELoss", "CrossEntropy"))
        return Expected(
            auxiliary=[f"aux_maps_{x}" for x in _LEVELS if getattr(self, f"aux_weight_{x}") > 0],
            # A part of the caller's own may take what is no probability.
            bounded=[isinstance(part, LossLayer) for part in parts],
            learns_without_text=learns_without_text,
            mined=name if balanced and name in ALL_MINED else "",
            logarithm=name if weight_of_logarithm else "",
            first_rank=self.group.ranks[0] if self.group else 0,
        )

    def _evaluated(self, calls: Sequence[_Call], text_weights: Tensor | None) -> dict[str, Tensor]:
        """Return the total and each part: sums of what the layers make of their pixels.

        Layers of this package share their sweeps; any other is called on its channel.
        """
        processes = self._processes()
        own, others = [], []
        for call in calls:
            pixels = call.pixels
            if _shares_sweeps(call.layer, processes):
                own.append((call, call.layer._terms(pixels)))
            else:
                plane, weighted = pixels.maps[:, pixels.channel], pixels.mask is not pixels.valid
                further = {"weights": text_weights} if weighted else {}
                others.append((call, call.layer(plane, pixels.target, pixels.valid, **further)))
        names = ["loss", *dict.fromkeys(call.part for call in calls)]
        columns = [(call, weight) for call, weighted_terms in own for weight, _ in weighted_terms]
        terms = [term for _, weighted_terms in own for _, term in weighted_terms]
        if not others:
            mix = [[call.weighs(name) * weight for call, weight in columns] for name in names]
            return dict(zip(names, evaluate(terms, mix, processes)))
        mix = [[weight if each is call else 0 for each, weight in columns] for call, _ in own]
        losses = zip((call for call, _ in own), evaluate(terms, mix, processes))
        every = [*losses, *others]
        return {
            name: _sum([(call.weighs(name), x) for call, x in every if name in ("loss", call.part)])
            for name in names
        }


def _sum(weighted: Sequence[tuple[float, Tensor]]) -> Tensor:
    # On a GPU a product with 1, and a sum of one, would be a kernel launch.
    losses = [loss if weight == 1 else weight * loss for weight, loss in weighted]
    return paddle.add_n(losses) if len(losses) > 1 else losses[0]


def _shares_sweeps(layer: nn.Layer, processes: Processes) -> bool:
    """Tell whether calling `layer` would do what evaluating its terms does, and no more."""
    return (
        type(layer) in _OWN_LAYERS
        and "forward" not in vars(layer)
        and not layer._forward_pre_hooks
        and not layer._forward_post_hooks
        and layer._processes() == processes
    )
