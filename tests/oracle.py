"""The formulas of the losses in NumPy float64: each function returns the value and the gradient.

Written from the formulas alone, as plainly as they read, with a full sort where hard negatives are
chosen. It is what the package is tested against, and is itself tested against PaddleOCR's numbers
and finite differences (`test_oracle.py`). It imports nothing of the package.

Symbols: `p` prediction, `g` shrink map, `m` shrink mask, `t` threshold map, `k` threshold mask.
"""

import numpy as np

PARTS = ("loss_shrink_maps", "loss_threshold_maps", "loss_binary_maps")


def _f64(*arrays):
    return [np.asarray(a, dtype=np.float64) for a in arrays]


def dice(p, g, m, weights=None, eps=1e-6, smooth=0.0):
    p, g, w = _f64(p, g, m)
    if weights is not None:
        w = w * _f64(weights)[0]
    top = 2 * (w * p * g).sum() + smooth
    bottom = (w * p).sum() + (w * g).sum() + eps + smooth
    return 1 - top / bottom, w * (top - 2 * bottom * g) / bottom**2


def tversky(p, g, m, alpha=0.7, beta=0.3, gamma=1.0, eps=1e-6, smooth=0.0):
    """By true finds, false finds and misses, as the paper has it."""
    p, g, w = _f64(p, g, m)
    found, false, missed = (w * p * g).sum(), (w * p * (1 - g)).sum(), (w * (1 - p) * g).sum()
    top = found + smooth / 2
    bottom = found + alpha * false + beta * missed + smooth / 2 + eps / 2
    in_p = w * (g / bottom - top / bottom**2 * (g + alpha * (1 - g) - beta * g))
    miss = 1 - top / bottom
    if gamma == 1:
        return miss, -in_p
    inside = miss >= 1e-12
    miss = max(miss, 1e-12)
    return miss**gamma, -gamma * miss ** (gamma - 1) * in_p * inside


def masked_l1(p, t, k, eps=1e-6):
    p, t, k = _f64(p, t, k)
    bottom = k.sum() + eps
    return (np.abs(p - t) * k).sum() / bottom, np.sign(p - t) * k / bottom


def clamped_log(x):
    (x,) = _f64(x)
    low = x <= np.exp(-100)
    return np.where(low, -100.0, np.log(np.where(low, 1.0, x)))


def bce(p, g):
    """Per pixel. The derivative is that of Paddle's kernel, which stays finite at 0 and 1."""
    p, g = _f64(p, g)
    loss = -(g * clamped_log(p) + (1 - g) * clamped_log(1 - p))
    return loss, (p - g) / np.maximum(p * (1 - p), 1e-12)


def squared(p, g):
    """Per pixel."""
    p, g = _f64(p, g)
    return (p - g) ** 2, 2 * (p - g)


# Not "CrossEntropy", another name of BCELoss: test_balance.py.
PIXEL_LOSS = {"BCELoss": bce, "Euclidean": squared}
MINED = (*PIXEL_LOSS, "OHEMDiceLoss")
BALANCED = ("DiceLoss", "TverskyLoss", "MaskL1Loss", *MINED, "DiceBCELoss")
MAIN_LOSS_TYPES = (*BALANCED, "DiceFocalLoss")


def counts(g, m, ratio=3, fallback=0):
    g, m = _f64(g, m)
    n_pos = max(int((g * m).sum()), 0)
    limit = n_pos * ratio if n_pos else fallback
    return n_pos, max(int(min(((1 - g) * m).sum(), limit)), 0)


def hard_negative_weights(hardness, g, m, ratio=3, fallback=0, weights=1.0):
    """1 above the n_neg-th largest value of v; those equal to it the tie weight."""
    hardness, g, m = _f64(hardness, g, m)
    negative = (1 - g) * m * weights
    v, n = negative * hardness, counts(g, m, ratio, fallback)[1]
    if n == 0:
        return np.zeros_like(v)
    if n >= v.size:
        return (negative != 0) * 1.0
    tau = np.sort(v, axis=None)[::-1][n - 1]
    above, equal = v > tau, (v == tau) & (negative != 0)
    return (negative != 0) * (above + equal * (n - above.sum()) / max(equal.sum(), 1))


def ohem_dice(p, g, m, ratio=3, eps=1e-6, fallback=0, smooth=0.0, weights=1.0):
    p, g, m = _f64(p, g, m)
    c = hard_negative_weights(p, g, m, ratio, fallback, weights)
    m = m * weights
    return dice(p, g, g * m + (1 - g) * m * c, eps=eps, smooth=smooth)


def origin(p, g, m, kind="DiceLoss", eps=1e-6, smooth=0.0, tversky_settings=(0.7, 0.3, 1.0)):
    """The loss before the balance: a scalar, or a map for the losses per pixel."""
    if kind in PIXEL_LOSS:
        return PIXEL_LOSS[kind](p, g)
    if kind == "MaskL1Loss":
        return masked_l1(p, g, m, eps)
    if kind == "DiceBCELoss":
        return balance(p, g, m, kind, balanced=False, eps=eps, smooth=smooth)
    if kind == "TverskyLoss":
        return tversky(p, g, m, *tversky_settings, eps, smooth)
    return dice(p, g, m, eps=eps, smooth=smooth)


def balance(
    p,
    g,
    m,
    kind="DiceLoss",
    balanced=True,
    ratio=3,
    eps=1e-6,
    fallback=0,
    smooth=0.0,
    bce_weight=0.2,
    weights=1.0,
    tversky_settings=(0.7, 0.3, 1.0),
):
    """`weights` stand beside the mask in every sum, but not in the counts."""
    settings = balanced, ratio, eps, fallback, smooth, bce_weight, weights
    if kind == "DiceBCELoss":
        parts = balance(p, g, m, "DiceLoss", *settings), balance(p, g, m, "BCELoss", *settings)
        return tuple(a + bce_weight * b for a, b in zip(*parts))
    p, g, m = _f64(p, g, m)
    mw = m * weights
    loss, slope = origin(p, g, mw, kind, eps, smooth, tversky_settings)
    if not balanced:
        if kind in PIXEL_LOSS:
            return (mw * loss).sum() / (mw.sum() + eps), mw * slope / (mw.sum() + eps)
        return loss, slope
    if kind == "OHEMDiceLoss":
        return ohem_dice(p, g, m, ratio, eps, fallback, smooth, weights)
    n_pos, n_neg = counts(g, m, ratio, fallback)
    # A scalar loss is the same at every pixel.
    w = g * mw + (1 - g) * mw * hard_negative_weights(loss, g, m, ratio, fallback, weights)
    bottom = n_pos + n_neg + eps
    factor = w / bottom if kind in PIXEL_LOSS else w.sum() / bottom
    return (w * loss).sum() / bottom, factor * slope


def focal(p, g, m, alpha=0.75, gamma=2.0, eps=1e-6):
    """The clip is rounded in the dtype of p, as PaddleOCR's is, and has its ends inside."""
    number = np.asarray(p).dtype.type
    least, most = number(eps), min(number(1 - eps), np.nextafter(number(1), number(0)))
    least, most = np.float64(least), np.float64(most)
    p, g, m = _f64(p, g, m)
    q = np.clip(p, least, most)
    alpha_t = alpha * g + (1 - alpha) * (1 - g)
    miss = 1 - (q * g + (1 - q) * (1 - g))
    cross = -(g * np.log(q) + (1 - g) * np.log(1 - q))
    slope = miss**gamma * (q - g) / (q * (1 - q))
    if gamma:
        slope = slope - gamma * miss ** (gamma - 1) * (2 * g - 1) * cross
    inside = (p >= least) & (p <= most)
    bottom = m.sum() + eps
    return (m * alpha_t * miss**gamma * cross).sum() / bottom, m * alpha_t * slope * inside / bottom


def dice_focal(
    p, g, m, dice_weight=1.0, focal_weight=1.0, alpha=0.75, gamma=2.0, eps=1e-6, smooth=0.0
):
    d, dd = dice(p, g, m, eps=eps, smooth=smooth)
    f, df = focal(p, g, m, alpha, gamma, eps)
    return dice_weight * d + focal_weight * f, dice_weight * dd + focal_weight * df


def binarize(p, t, k=50.0):
    """Value, derivative to `p`; the derivative to `t` is its negative."""
    p, t = _f64(p, t)
    b = np.exp(-np.logaddexp(0, -k * (p - t)))
    return b, k * b * np.exp(-np.logaddexp(0, k * (p - t)))


def db(
    predicts,
    labels,
    balance_loss=True,
    main_loss_type="DiceLoss",
    alpha=5,
    beta=10,
    ohem_ratio=3,
    eps=1e-6,
    aux_weight_p4=0.0,
    aux_weight_p3=0.0,
    aux_weight_p2=0.0,
    focal_alpha=0.25,
    focal_gamma=2.0,
    dice_weight=1.0,
    focal_weight=1.0,
    fallback_negatives=0,
    smooth=0.0,
    bce_weight=0.2,
    tversky_alpha=0.7,
    tversky_beta=0.3,
    tversky_gamma=1.0,
):
    """The dict of losses, and the dict of gradients of "loss" to each prediction it depends on."""
    t, k, g, m, *more = labels[1:]
    weights = _f64(more[0])[0] if more else 1.0
    mw = _f64(m)[0] * weights

    def shrink(p):
        if main_loss_type == "DiceFocalLoss":
            return dice_focal(
                p, g, mw, dice_weight, focal_weight, focal_alpha, focal_gamma, eps, smooth
            )
        return balance(
            p,
            g,
            m,
            main_loss_type,
            balance_loss,
            ohem_ratio,
            eps,
            fallback_negatives,
            smooth,
            bce_weight,
            weights,
            (tversky_alpha, tversky_beta, tversky_gamma),
        )

    def binary(p):
        return shrink(p) if main_loss_type == "DiceFocalLoss" else dice(p, g, mw, None, eps, smooth)

    def three(maps):
        parts = shrink(maps[:, 0]), masked_l1(maps[:, 1], t, k, eps), binary(maps[:, 2])
        weighted = [(a * value, a * slope) for a, (value, slope) in zip((alpha, beta, 1), parts)]
        return [v for v, _ in weighted], np.stack([s for _, s in weighted], axis=1)

    values, grad = three(predicts["maps"])
    losses, grads = dict(zip(PARTS, values), loss=sum(values)), {"maps": grad}
    if "distance_maps" in predicts and "cbn_maps" in predicts:
        losses["loss_cbn"], slope = shrink(predicts["cbn_maps"][:, 0])
        losses["loss"] += losses["loss_cbn"]
        grads["cbn_maps"] = np.zeros(predicts["cbn_maps"].shape)
        grads["cbn_maps"][:, 0] = slope
    aux = {"aux_maps_p4": aux_weight_p4, "aux_maps_p3": aux_weight_p3, "aux_maps_p2": aux_weight_p2}
    for key, weight in aux.items():
        if weight > 0 and key in predicts:
            values, grad = three(predicts[key])
            losses[f"loss_{key}"] = sum(values)
            losses["loss"] += weight * sum(values)
            grads[key] = weight * grad
    return losses, grads
