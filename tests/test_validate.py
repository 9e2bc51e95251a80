"""`validate_batch` counts what is in a batch and names the first pixel that is wrong.

`DBLoss` says the same of its first batch.
"""

import copy
import itertools
import pickle
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from helpers import DATA, GOLDEN_CASES, LABELS, golden_batch, make_batch, tensor, tensors

from dbloss import DBLoss, MaskL1Loss, validate_batch
from dbloss.batch.first import FirstBatches

N, H, W = 2, 4, 6
CHANNELS = ("probability", "threshold", "binary")


def arrays(n=N):
    """A batch in order: text in columns 1 to 3 of row 1, one pixel of it ignored, in image 0."""
    g, m, k = np.zeros((n, H, W)), np.ones((n, H, W)), np.ones((n, H, W))
    g[0, 1, 1:4] = 1
    m[0, 1, 1] = m[1, 0, :2] = 0
    return {
        "maps": np.full((n, 3, H, W), 0.25),
        "threshold_map": np.full((n, H, W), 0.5),
        "threshold_mask": k,
        "shrink_map": g,
        "shrink_mask": m,
    }


def validate(batch, dtype="float32", label_dtype="float32"):
    predicts = {"maps": tensor(batch["maps"], dtype, grad=True)}
    return validate_batch(predicts, [None, *(tensor(batch[name], label_dtype) for name in LABELS)])


def message(batch, **dtypes):
    with pytest.raises(ValueError) as caught:
        validate(batch, **dtypes)
    return str(caught.value)


def set_prediction(batch, channel, value, pixel=(1, 2, 3)):
    image, y, x = pixel
    batch["maps"][image, CHANNELS.index(channel), y, x] = value


# The summary ------------------------------------------------------------------------------------


def test_counts_pixels_of_each_image_and_in_all():
    summary = validate(arrays())
    assert summary.images == 2
    assert summary.positive == (2, 0)
    assert summary.negative == (21, 22)
    assert summary.ignored == (1, 2)
    assert summary.without_text == (1,)


def test_prints_a_table():
    batch = arrays()
    set_prediction(batch, "binary", 0.123456)
    set_prediction(batch, "probability", 0)
    set_prediction(batch, "probability", 1e-4, (0, 1, 2))
    set_prediction(batch, "probability", 1e-13, (0, 1, 3))
    assert str(validate(batch)).splitlines() == [
        "image  positive  negative  ignored",
        "    0         2        21        1",
        "    1         0        22        2",
        "  all         2        43        3",
        "images without text: 1",
        "",
        "map                                    least  greatest",
        'predicts["maps"][:, 0] (probability)       0      0.25',
        'predicts["maps"][:, 1] (threshold)      0.25      0.25',
        'predicts["maps"][:, 2] (binary)       0.1235      0.25',
        "labels[1] (threshold_map)                0.5       0.5",
        "labels[2] (threshold_mask)                 1         1",
        "labels[3] (shrink_map)                     0         1",
        "labels[4] (shrink_mask)                    0         1",
        "",
        "share of the text where               P < 0.001  P < 1e-12",
        'predicts["maps"][:, 0] (probability)     100.0%      50.0%',
    ]


def test_table_of_32_images_has_a_line_each():
    batch = arrays(32)
    batch["shrink_map"][:, 2, 2] = 1
    lines = str(validate(batch)).splitlines()
    assert lines[32].split() == ["31", "1", "23", "0"]
    assert lines[33].split() == ["all", "34", "731", "3"]
    assert lines[34] == "images without text: none"
    assert len({len(line) for line in lines[:34]}) == 1
    assert max(map(len, lines)) <= 80


def test_labels_in_between_count_by_their_weight():
    batch = make_batch("soft")
    summary = validate_batch({"maps": tensor(batch.maps)}, tensors(batch.labels))
    g, m = batch.g.astype(np.float64), batch.m.astype(np.float64)
    for got, weights in (
        (summary.positive, g * m),
        (summary.negative, (1 - g) * m),
        (summary.ignored, 1 - m),
    ):
        np.testing.assert_allclose(got, weights.sum((1, 2)), rtol=1e-6)
    assert f"{(g * m)[1].sum():.1f}" in str(summary).splitlines()[2]


def test_the_share_of_the_text_where_p_is_next_to_0(caplog):
    batch = make_batch("soft")
    rng = np.random.default_rng(0)
    text, shares = batch.g.astype(np.float64) * batch.m, {}
    predicts = {"maps": batch.maps, "aux_maps_p4": batch.maps, "distance_maps": batch.maps}
    predicts["cbn_maps"] = batch.maps[:, :1]
    for key in ("maps", "cbn_maps", "aux_maps_p4"):
        maps = predicts[key] = predicts[key].copy()
        p = maps[:, 0] = 10 ** rng.uniform(-20, 0, maps[:, 0].shape)
        low, lowest = ((text * (p < limit)).sum() / text.sum() for limit in (1e-3, 1e-12))
        shares[f'predicts["{key}"][:, 0] (probability)'] = pytest.approx((low, lowest), rel=1e-6)
    given = {key: tensor(maps) for key, maps in predicts.items()}
    assert validate_batch(given, tensors(batch.labels)).faint == shares
    assert not validate_batch(given, tensors([batch.labels[0], *4 * [0 * batch.g]])).faint
    assert not validate_batch(None, tensors(batch.labels)).faint


@pytest.mark.parametrize(
    ("dtype", "label_dtype"),
    [
        ("float16", "bool"),
        ("float16", "float16"),
        ("bfloat16", "uint8"),
        ("bfloat16", "int8"),
        ("float64", "int64"),
        ("float64", "float64"),
    ],
)
def test_dtypes(dtype, label_dtype):
    batch = arrays()
    batch["threshold_map"][:] = 1
    summary = validate(batch, dtype, label_dtype)
    assert (summary.positive, summary.negative) == ((2, 0), (21, 22))
    assert summary.ranges['predicts["maps"][:, 0] (probability)'] == (0.25, 0.25)


def test_further_predictions_are_read():
    batch = arrays()
    predicts = {"maps": tensor(batch["maps"])}
    predicts["distance_maps"] = tensor(np.full((N, 1, H, W), 7.0))
    predicts["cbn_maps"] = tensor(np.stack([np.full((N, H, W), v) for v in (0.75, 9.0)], axis=1))
    predicts["aux_maps_p3"] = tensor(batch["maps"] / 2)
    labels = [None, *(tensor(batch[name]) for name in LABELS)]
    ranges = validate_batch(predicts, labels).ranges
    assert ranges['predicts["cbn_maps"][:, 0] (probability)'] == (0.75, 0.75)
    assert ranges['predicts["aux_maps_p3"][:, 2] (binary)'] == (0.125, 0.125)
    assert len(ranges) == 3 + 1 + 3 + 4
    predicts["aux_maps_p3"][1, 1, 2, 3] = float("nan")
    with pytest.raises(
        ValueError, match=r'predicts\["aux_maps_p3"\]\[:, 1\] .* image 1 .*\(2, 3\)'
    ):
        validate_batch(predicts, labels)


def test_changes_nothing_of_the_caller():
    batch = arrays()
    predicts = {"maps": tensor(batch["maps"], grad=True)}
    labels = [object(), *(tensor(batch[name]) for name in LABELS)]
    kept = list(labels)
    validate_batch(predicts, labels)
    assert all(a is b for a, b in zip(labels, kept)) and list(predicts) == ["maps"]
    assert not predicts["maps"].stop_gradient and predicts["maps"].grad is None
    for name, label in zip(LABELS, labels[1:]):
        np.testing.assert_array_equal(label.numpy(), batch[name].astype(np.float32))
    np.testing.assert_array_equal(predicts["maps"].numpy(), batch["maps"].astype(np.float32))


# Wrong values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "float16"), (np.inf, "bfloat16"), (-np.inf, "float32")]
)
@pytest.mark.parametrize("channel", CHANNELS)
def test_nan_or_inf_in_a_prediction(channel, value, dtype):
    batch = arrays()
    set_prediction(batch, channel, value)
    assert message(batch, dtype=dtype) == (
        f'predicts["maps"][:, {CHANNELS.index(channel)}] ({channel}): expected values in [0, 1],'
        f" got {value} in image 1 at pixel (y, x) = (2, 3)."
        " Pixels of the map that are NaN or Inf: 1 of 48."
        " Lower the learning rate; in half precision make the binary map with"
        " dbloss.differentiable_binarization, which does not overflow."
    )


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (-0.5, "Values from -0.5 to 0.25 look like logits: put a sigmoid at the end of the head."),
        (7.5, "Values from 0.25 to 7.5 look like logits: put a sigmoid at the end of the head."),
        (1.0000001, "Rounding alone puts it outside: clip it to [0, 1]."),
    ],
)
@pytest.mark.parametrize("channel", CHANNELS)
def test_prediction_outside_0_to_1(channel, value, advice):
    batch = arrays()
    set_prediction(batch, channel, value)
    text = message(batch)
    assert text.startswith(f'predicts["maps"][:, {CHANNELS.index(channel)}] ({channel}): ')
    assert f"got {value} in image 1 at pixel (y, x) = (2, 3)" in text
    assert text.endswith(f"outside [0, 1]: 1 of 48. {advice}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 2.5])
@pytest.mark.parametrize("name", LABELS)
def test_wrong_value_in_a_label(name, value):
    batch = arrays()
    batch[name][0, 3, 5] = value
    text = message(batch)
    assert text.startswith(f"labels[{LABELS.index(name) + 1}] ({name}): expected values in [0, 1]")
    assert f"got {value} in image 0 at pixel (y, x) = (3, 5)" in text
    assert ("polygons" if not np.isfinite(value) else "Check the order [image, thr") in text


@pytest.mark.parametrize("label_dtype", ["uint8", "int64", "float32"])
@pytest.mark.parametrize("name", ["threshold_mask", "shrink_map", "shrink_mask"])
def test_masks_of_255(name, label_dtype):
    batch = arrays()
    batch["threshold_map"][:] = 1
    batch[name] *= 255
    wrong = np.argwhere(batch[name])
    text = message(batch, label_dtype=label_dtype)
    assert text.startswith(f"labels[{LABELS.index(name) + 1}] ({name}): ")
    image, y, x = wrong[0]
    assert f"got 255{'.0' * (label_dtype == 'float32')} in image {image} at" in text
    assert f"(y, x) = ({y}, {x})" in text
    assert f"outside [0, 1]: {len(wrong)} of 48" in text
    assert text.endswith("Its values are 0 or 255: divide it by 255, or compare it with > 0.")


@pytest.mark.parametrize(
    ("name", "values", "advice"),
    [
        ("shrink_map", [0, 1, 255], "make the shrink map (labels == 1) and the shrink mask"),
        ("shrink_map", [0, 1, 2, 7], "whole numbers up to 7, as numbers of classes or of words"),
        ("shrink_mask", [0, 31, 190, 255], "Divide 8-bit values by 255"),
        ("threshold_map", [76, 178], "Divide 8-bit values by 255"),
        ("threshold_map", [-2.1, 0.3, 2.4], "this looks like none of the four maps"),
        ("threshold_mask", [0, 1.0000001], "clip it to [0, 1]"),
    ],
)
def test_advice_fits_what_the_label_holds(name, values, advice):
    batch = arrays()
    batch[name].flat = np.resize(values, N * H * W)
    text = message(batch)
    assert f"({name}): expected values in [0, 1]" in text and advice in text
    assert ("255" in text) == (255 in values or 178 in values)


def test_first_of_several_in_reading_order():
    batch = arrays()
    batch["threshold_map"][0, 0, 0] = 5  # a later map
    set_prediction(batch, "binary", 4, (0, 0, 0))
    for pixel in ((1, 0, 0), (0, 3, 0), (0, 2, 5), (0, 2, 4)):
        set_prediction(batch, "threshold", 3, pixel)
    for pixel in ((1, 3, 5), (0, 2, 5)):
        set_prediction(batch, "threshold", np.nan, pixel)
    text = message(batch)
    assert "[:, 1] (threshold): expected values in [0, 1], got 3.0 in image 0 at pixel" in text
    assert "(y, x) = (2, 4). Pixels of the map that are outside [0, 1]: 3 of 48." in text


def test_value_where_the_mask_is_0_counts_as_well():
    batch = arrays()
    set_prediction(batch, "probability", np.nan, (0, 1, 1))
    assert "image 0 at pixel (y, x) = (1, 1)" in message(batch)


# No text ----------------------------------------------------------------------------------------

EFFECT = "loss_shrink_maps is 0, loss_binary_maps is exactly 1, and neither gives a gradient"
REMEDY = 'DBLoss(main_loss_type="BCELoss", fallback_negatives=1000)'


def no_text(kind):
    batch = arrays()
    if kind == "all ignored":
        batch["shrink_mask"][:] = 0
    elif kind == "text ignored":
        batch["shrink_mask"][0, 1] = 0
    else:
        batch["shrink_map"][:] = 0
        batch["shrink_mask"][:] = 1
    return batch


@pytest.mark.parametrize(
    ("kind", "found", "advice"),
    [
        ("all ignored", "every pixel of the batch is ignored", "###"),
        ("text ignored", "no text counts in the batch, and part of it is ignored", "min_text_size"),
        ("no text", "the batch has no text, and nothing in it is ignored", "random crops"),
    ],
)
def test_no_text_is_reported(kind, found, advice, caplog):
    # Not by `validate`, so that the line that is named is one of this function.
    labels = [None, *(tensor(no_text(kind)[name]) for name in LABELS)]
    summary = validate_batch({"maps": tensor(no_text(kind)["maps"], grad=True)}, labels)
    (record,) = caplog.records
    text = record.getMessage()
    assert (record.name, record.levelname) == ("dbloss", "WARNING")
    assert record.funcName == "test_no_text_is_reported"
    assert text.startswith(f"labels: {found}.") and EFFECT in text and advice in text
    assert ("smooth=1.0" in text and REMEDY in text) == (kind != "all ignored")
    assert ("###" in text) == (kind != "no text")
    assert summary.without_text == (0, 1)
    assert "images without text: 0, 1" in str(summary)


@pytest.mark.parametrize("kind", ["all ignored", "text ignored", "no text"])
def test_loss_does_what_the_report_says(engine, kind):
    batch = no_text(kind)
    labels = [None, *(tensor(batch[name]) for name in LABELS)]

    def run(**settings):
        maps = tensor(batch["maps"], grad=True)
        losses = DBLoss(**settings)({"maps": maps}, labels)
        losses["loss"].backward()
        pushes = (maps.grad.numpy() != 0).any((0, 2, 3))
        return float(losses["loss_shrink_maps"]), float(losses["loss_binary_maps"]), pushes

    shrink, binary, pushes = run()
    assert (shrink, binary) == (0, 1) and not pushes[0] and not pushes[2]
    helps = kind != "all ignored"
    assert run(smooth=1.0)[2][2] == helps
    assert run(main_loss_type="BCELoss", fallback_negatives=1000)[2][0] == helps


def test_of_a_batch_in_order_nothing_is_reported(caplog):
    validate(arrays())
    assert not caplog.records


# What values in [0, 1] have wrong ---------------------------------------------------------------


def page():
    """The label maps of a page with one word and one that is ignored, drawn by hand.

    The threshold falls from the outline to both sides, and the shrunk word lies within.
    """
    h, w = 24, 40
    y, x = np.mgrid[:h, :w]
    # How far a pixel is outside the outline of a word of 20 x 8 pixels, or inside of it.
    outside = np.maximum(np.maximum(8 - x, x - 28), np.maximum(8 - y, y - 16))
    t = 0.3 + 0.4 * np.maximum(0, 1 - np.abs(outside) / 3)
    m = np.ones((h, w))
    m[20:, 30:] = 0
    return [each[None].astype(np.float32) for each in (t, outside < 3, outside < -3, m)]


def warnings_of(labels, caplog):
    caplog.clear()
    summary = validate_batch(None, [None, *tensors(labels)])
    assert summary.images == len(labels[0])
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_every_other_order_of_maps_and_masks_is_named(order, caplog):
    found = warnings_of([page()[i] for i in order], caplog)
    if order == (0, 1, 2, 3):
        assert not found
        return
    (text,) = found
    assert f"these look like [image, {', '.join(LABELS[i] for i in order)}]" in text
    places = ", ".join(f"labels[{order.index(i) + 1}]" for i in range(4))
    assert text.endswith(f"Pass [labels[0], {places}].")


def test_what_only_resembles_another_order_is_left_alone(caplog):
    t, k, g, m = page()
    for labels in (
        [t, k, g, 1 - k],  # most is ignored
        [t, np.ones_like(k), g, m],  # the threshold counts everywhere
        [np.full_like(t, 0.5), np.ones_like(k), g, m],
        [np.full_like(t, 0.3), 0 * k, g, m],  # words that have no threshold
        [t, k, k, m],  # not shrunk
    ):
        assert not [text for text in warnings_of(labels, caplog) if "order" in text]


def test_an_order_is_named_up_to_what_is_like_no_other(caplog):
    t, k, g, m = page()
    m[:, :, 30:] = 0  # a third of what is away from the word
    assert 0.5 < m[t <= 0.3].mean() < 0.75
    (text,) = warnings_of([g, m, t, k], caplog)
    assert "these look like [image, shrink_map, shrink_mask, threshold_map, threshold_m" in text
    y, x = np.mgrid[:24, :40]
    larger = np.float32((x >= 7) & (x <= 29) & (y >= 7) & (y <= 17))[None]
    assert 0.5 < larger[t > 0.301].mean() < 0.8
    assert not [text for text in warnings_of([t, larger, k, m], caplog) if "order [i" in text]


def test_a_threshold_map_without_text_is_missed_at_its_place(caplog):
    t, _, _, m = page()
    flat, none = np.full_like(t, 0.3), np.zeros_like(t)
    (text,) = warnings_of([none, m, flat, none], caplog)
    assert "labels[3] (shrink_map) looks like the threshold map: its values go from 0.3 to" in text
    (text,) = warnings_of([flat, none, none, np.ones_like(m)], caplog)
    assert "the batch has no text" in text


def test_a_soft_shrink_map(caplog):
    t, k, g, m = page()
    g[0, 12, 10:12] = 0.25
    (text,) = warnings_of([t, k, g, m], caplog)
    assert text.startswith(
        "labels[3] (shrink_map): expected 0 and 1, got 0.25 in image 0 at pixel (y, x) = (12, 10)."
        " Pixels of the map that are in between: 2 of 960."
    )


@pytest.mark.parametrize("end", [0, 1])
def test_a_threshold_map_that_reaches_an_end(end, caplog):
    t, k, g, m = page()
    t[0, 0, 0] = end  # where the mask does not count it
    assert not warnings_of([t, k, g, m], caplog)
    t[0, 12, 20] = end
    (text,) = warnings_of([t, k, g, m], caplog)
    assert text.startswith("labels[1] (threshold_map): expected thresholds between 0 and 1, got")
    assert f"{end}.0 in image 0 at pixel (y, x) = (12, 20)" in text
    assert f"0 or 1: 1 of {int(k.sum())}." in text


def test_text_on_more_than_half_of_an_image(caplog):
    labels = [np.concatenate([each] * 3) for each in page()]
    labels[2][1] = 1 - labels[2][1]
    labels[2][2, :12] = labels[2][2, :, :20] = 1
    (text,) = warnings_of(labels, caplog)
    share = labels[2][1].mean()
    assert "(shrink_map): expected shrunk text on at most a third of an image, got it on" in text
    assert f" {share:.0%} of image 1 and on half of 1 more. Are 0 and 1 the wrong way" in text
    labels[2][1:] = 0
    labels[2][1, :12] = 1  # a half, and no more
    assert not warnings_of(labels, caplog)


def test_no_pixel_without_text(caplog):
    t, k, g, _ = page()
    (text,) = warnings_of([t, k, g, g], caplog)
    assert text.startswith("labels: no pixel without text counts in the batch")


def test_a_mask_the_wrong_way_round(caplog):
    t, k, g, m = page()
    (text,) = warnings_of([t, k, g, 1 - m], caplog)
    assert "no text counts in the batch, and part of it is ignored" in text
    assert "is it the wrong way round, 1 on what is ignored?" in text


def test_maps_that_require_no_gradient(caplog):
    labels = [None, *tensors(page())]
    predicts = {"maps": paddle.full([1, 3, 24, 40], 0.5)}
    validate_batch(predicts, labels)
    (record,) = caplog.records
    assert record.getMessage().startswith('predicts["maps"]: expected a tensor that requires a gr')
    caplog.clear()
    with paddle.no_grad():
        validate_batch(predicts, labels)
    predicts["maps"].stop_gradient = False
    validate_batch(predicts, labels)
    assert not caplog.records


with np.load(DATA / "paddleocr_targets.npz") as stored:
    MADE = dict(stored.items())


@pytest.mark.parametrize("case", sorted({name.partition(".")[0] for name in MADE}))
def test_labels_that_paddleocr_made_are_in_order(case, caplog):
    labels = [MADE[f"{case}.{name}"][None] for name in LABELS]
    found = warnings_of(labels, caplog)
    assert len(found) == (not (labels[2] * labels[3]).any())
    assert all("With the defaults of DBLoss, loss_shrink_maps is 0" in text for text in found)


# Labels alone -----------------------------------------------------------------------------------


def test_labels_without_predictions():
    batch = arrays()
    summary = validate_batch(None, [None, *(tensor(batch[name]) for name in LABELS)])
    assert (summary.positive, summary.negative, summary.ignored) == ((2, 0), (21, 22), (1, 2))
    assert list(summary.ranges) == [
        "labels[1] (threshold_map)",
        "labels[2] (threshold_mask)",
        "labels[3] (shrink_map)",
        "labels[4] (shrink_mask)",
    ]


def test_structure_of_labels_without_predictions():
    good = [tensor(arrays()[name]) for name in LABELS]
    for labels, error, text in (
        (good, ValueError, "expected 5 entries"),
        ([None, None, *good[1:]], TypeError, r"labels\[1\] .* expected a paddle.Tensor, got None"),
        ([None, good[0].unsqueeze(-1), *good[1:]], ValueError, r"labels\[1\] .*\.squeeze\(-1\)"),
        ([None, good[0][0], *good[1:]], ValueError, r"labels\[1\] .*\.unsqueeze\(0\)"),
        ([None, *good[:3], good[3][:1]], ValueError, r"N, H and W of labels\[1\]"),
        ([None, *(each[:0] for each in good)], ValueError, "at least one image"),
    ):
        with pytest.raises(error, match=text):
            validate_batch(None, labels)


# The first batch of a loss ----------------------------------------------------------------------


@pytest.fixture
def said(caplog):
    """What the logger was told since the last call."""

    def since():
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    return since


def predicts_of(labels, value=0.5, channels=3):
    n, h, w = labels[1].shape
    return {"maps": tensor(np.full((n, channels, h, w), value), grad=True)}


def masks_of_255():
    t, k, g, m = page()
    return [None, *tensors([t, 255 * k, g, 255 * m])]


def test_the_first_batch_is_looked_at_once(said, engine):
    layer, labels = DBLoss(), masks_of_255()
    losses = layer(predicts_of(labels), labels)
    (text,) = said()
    first, *found = text.split("\n- ")
    assert "check_batches=0" in first
    for line, name in zip(found, ("labels[2] (threshold_mask)", "labels[4] (shrink_mask)")):
        assert line.startswith(f"{name}: expected values in [0, 1], got 255.0 in image 0 at")
        assert line.endswith("Its values are 0 or 255: divide it by 255, or compare it with > 0.")
    assert len(found) == 2
    again = layer(predicts_of(labels), labels)
    assert not said() and float(again["loss"]) == float(losses["loss"])
    assert float(DBLoss(check_batches=0)(predicts_of(labels), labels)["loss"]) == float(
        losses["loss"]
    )


@pytest.mark.parametrize("kind", ["good", "never"])
def test_silence(kind, said):
    labels = masks_of_255() if kind == "never" else [None, *tensors(page())]
    DBLoss(check_batches=0 if kind == "never" else 5)(predicts_of(labels), labels)
    assert not said()


def test_of_several_batches_each_fault_is_said_once(said):
    layer = DBLoss(check_batches=3)
    good, bad = [None, *tensors(page())], masks_of_255()
    layer(predicts_of(good), good)
    assert not said()
    layer(predicts_of(bad), bad)
    assert len(said()) == 1
    soft = [*good[:3], 0.5 * bad[3], bad[4]]
    layer(predicts_of(soft, value=7), soft)
    (text,) = said()
    assert "look like logits" in text and "got 255" not in text
    layer({"maps": predicts_of(bad)["maps"] * float("nan")}, bad)
    assert not said()


def test_the_first_batch_never_raises(said, monkeypatch):
    def fails(*_):
        raise MemoryError

    labels = [None, *tensors(page())]
    monkeypatch.setattr("dbloss.batch.rules.refusals", fails)
    layer = DBLoss()
    layer(predicts_of(labels), labels)["loss"].backward()
    assert not said()
    monkeypatch.undo()
    layer(predicts_of(labels, value=7), labels)
    assert not said()


def test_a_batch_that_the_loss_refuses_is_not_the_first(said):
    layer, labels = DBLoss(), masks_of_255()
    for predicts, targets in (
        (None, labels),
        (predicts_of(labels, channels=1), labels),
        (predicts_of(labels), labels[1:]),
    ):
        with pytest.raises((TypeError, ValueError)):
            layer(predicts, targets)
    assert not said()
    layer(predicts_of(labels), labels)
    assert len(said()) == 1


def test_auxiliary_maps_that_are_not_read_do_not_hide_the_first_batch(said):
    layer, labels = DBLoss(), masks_of_255()
    predicts = predicts_of(labels) | {"aux_maps_p2": paddle.zeros([1])}
    layer(predicts, labels)
    assert len(said()) == 1
    layer(predicts, labels)
    assert not said()


class OfLogits(paddle.nn.Layer):
    def forward(self, pred, gt, mask):
        return ((paddle.nn.functional.sigmoid(pred) - gt).abs() * mask).mean()


class OwnL1(MaskL1Loss):
    pass


@pytest.mark.parametrize(
    ("part", "own", "found"),
    [(OfLogits(), [0, 1], 2), (OwnL1(), [0, 1, 2], 3)],
    ids=["of logits", "subclass"],
)
def test_a_part_of_the_callers_own_may_take_logits(part, own, found, said):
    labels = [None, *tensors(page())]
    layer = DBLoss()
    setattr(layer, "dice_loss" if found == 2 else "l1_loss", part)
    layer(predicts_of(labels, value=7), labels)
    (text,) = said()
    assert text.count("look like logits") == found
    assert all(f"[:, {channel}] ({CHANNELS[channel]})" in text for channel in own)
    layer = DBLoss()
    layer.bce_loss = layer.l1_loss = layer.dice_loss = OfLogits()
    layer(predicts_of(labels, value=7), labels)
    assert not said()
    layer = copy.deepcopy(layer)
    layer._first_batches = DBLoss()._first_batches
    layer(predicts_of(labels, value=np.nan), labels)
    (text,) = said()
    assert text.count("NaN or Inf: 960 of 960") == 3


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({}, True),
        ({"main_loss_type": "BCELoss"}, True),
        ({"balance_loss": False}, True),
        ({"smooth": 1}, False),
        ({"main_loss_type": "BCELoss", "fallback_negatives": 9}, False),
        ({"main_loss_type": "BCELoss", "balance_loss": False}, False),
        ({"main_loss_type": "DiceFocalLoss"}, False),
    ],
)
def test_no_text_is_no_fault_for_a_loss_that_learns_from_it(settings, reported, said):
    batch = no_text("no text")
    labels = [None, *(tensor(batch[name]) for name in LABELS)]
    predicts = predicts_of(labels)
    layer = DBLoss(**settings)
    layer(predicts, labels)["loss"].backward()
    assert len(said()) == reported
    learns = bool((predicts["maps"].grad.numpy()[:, [0, 2]] != 0).any())
    assert learns != reported


@pytest.mark.parametrize(
    ("settings", "said_of"),
    [
        ({"main_loss_type": "OHEMDiceLoss"}, [0.5, 0.99]),
        ({"main_loss_type": "BCELoss"}, [0.5, 0.99]),
        ({"main_loss_type": "Euclidean"}, [0.5, 0.99]),
        ({"main_loss_type": "BCELoss", "balance_loss": False}, []),
        ({"main_loss_type": "DiceBCELoss"}, []),
        ({"main_loss_type": "DiceFocalLoss"}, []),
        ({}, []),
    ],
)
def test_a_mined_loss_wants_a_map_that_starts_as_background(settings, said_of, said):
    labels = [None, *tensors(page())]
    for value in (0.02, 0.2, 0.5, 0.99):
        DBLoss(**settings)(predicts_of(labels, value), labels)
        texts = said()
        assert len(texts) == (value in said_of), (value, texts)
        for text in texts:
            (found,) = text.split("\n- ")[1:]
            assert found.startswith('predicts["maps"][:, 0] (probability): expected a map')
            told = "on 100% of the pixels without text. With trained weights take TverskyLoss, or"
            assert told in found and f"From scratch {settings['main_loss_type']} " in found


def test_a_background_that_stands_high_in_places_alone(said):
    t, k, g, m = page()
    m[:, 18:] = 0
    labels, counted = [None, *tensors([t, k, g, m])], (g == 0) & (m == 1)
    for share, texts in ((0.4, 0), (0.6, 1)):
        p = np.full(g.shape, 0.9)  # also on text and on what is ignored, which tell nothing
        p[counted] = np.where(np.arange(counted.sum()) < share * counted.sum(), 0.9, 0.1)
        maps = np.stack([p, p, p], axis=1)
        DBLoss(main_loss_type="BCELoss")({"maps": tensor(maps, grad=True)}, labels)
        assert len(said()) == texts


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"main_loss_type": "BCELoss"}, "BCELoss"),
        ({"main_loss_type": "CrossEntropy", "balance_loss": False}, "CrossEntropy"),
        ({"main_loss_type": "DiceBCELoss"}, "DiceBCELoss"),
        ({"main_loss_type": "DiceBCELoss", "bce_weight": 0}, None),
        ({"main_loss_type": "DiceFocalLoss"}, "DiceFocalLoss"),
        ({"main_loss_type": "DiceFocalLoss", "focal_weight": 0}, None),
        ({"main_loss_type": "OHEMDiceLoss"}, None),
        ({"main_loss_type": "Euclidean"}, None),
        ({}, None),
    ],
)
def test_a_loss_with_a_logarithm_says_that_a_trained_map_is_next_to_0_on_text(settings, name, said):
    """On 6 and on 4 of 100 pixels of text, with another value on what tells nothing."""
    t, k, g, m = page()
    g[:] = 0
    g[0, 2:12, 5:16] = 1
    m[0, 2:12, 15] = 0  # text that does not count
    labels = [None, *tensors([t, k, g, m])]
    for faint, reported in ((6, 1), (4, 0)):
        p = np.where(g == 1, 0.9, 1e-4)
        p[0, 2, 5 : 5 + faint], p[0, 2, 5:8], p[0, 2:12, 15] = 9e-4, 9e-13, 0
        layer = DBLoss(**settings)
        layer({"maps": tensor(np.stack([p, t, p], axis=1), grad=True)}, labels)
        texts = said()
        assert len(texts) == (reported if name else 0), texts
        for text in texts:
            assert f"got less on {faint}% of the text's pixels, and less than 1e-12 on 3%" in text
            assert f". {name} is largest on these pixels" in text and text.count("\n- ") == 1
            assert "With trained weights take TverskyLoss, or the default, DiceLoss" in text


def test_of_labels_out_of_order_no_start_is_told(said):
    labels = masks_of_255()
    DBLoss(main_loss_type="OHEMDiceLoss")(predicts_of(labels), labels)
    (text,) = said()
    assert text.count("\n- labels[") == text.count("\n- ") == 2


class TwoModels(DBLoss):
    """As PaddleOCR's distillation subclasses it."""

    def forward(self, predicts, labels):
        results = [super(TwoModels, self).forward(each, labels) for each in predicts.values()]
        return {"loss": sum(each["loss"] for each in results)}


def test_a_subclass_that_calls_it_twice(said):
    labels = masks_of_255()
    predicts = {"student": predicts_of(labels), "other": predicts_of(labels)}
    TwoModels()(predicts, labels)
    assert len(said()) == 1


def test_of_two_layers_with_the_same_labels_one_speaks_of_them(said):
    labels, one, other = masks_of_255(), DBLoss(), DBLoss()
    one(predicts_of(labels), labels)
    assert len(said()) == 1
    other(predicts_of(labels, value=7), labels)
    (text,) = said()
    assert "look like logits" in text and "labels[" not in text
    del one, other
    DBLoss()(predicts_of(labels), labels)  # the cell of a notebook, run again
    assert len(said()) == 1


@pytest.mark.parametrize(("rank", "speaks"), [(0, True), (1, False)])
def test_of_several_processes_one_speaks(rank, speaks, said, monkeypatch):
    monkeypatch.setattr(paddle.distributed, "get_rank", lambda: rank)
    labels, layer = masks_of_255(), DBLoss()
    layer(predicts_of(labels), labels)
    monkeypatch.undo()
    layer(predicts_of(labels), labels)
    assert len(said()) == speaks


@pytest.mark.parametrize(("rank", "speaks"), [(0, False), (2, True), (3, False)])
def test_of_a_group_its_first_rank_speaks(rank, speaks, said, monkeypatch):
    monkeypatch.setattr(paddle.distributed, "get_rank", lambda: rank)
    labels = masks_of_255()
    layer = DBLoss(global_batch=True, group=SimpleNamespace(nranks=2, ranks=[2, 3]))
    layer._first_batches.look(predicts_of(labels), labels, layer._expected)
    assert len(said()) == speaks


def test_a_setting_that_is_no_number_of_batches():
    for value, error in ((-1, ValueError), (0.5, ValueError), (None, TypeError)):
        with pytest.raises(error, match="check_batches: expected a whole number at least 0"):
            DBLoss(check_batches=value)


def test_a_pickle_of_version_0_1_is_read():
    assert pickle.loads(b"cdbloss.validate\nFirstBatches\n.") is FirstBatches


# Structure --------------------------------------------------------------------------------------


def test_structure_is_checked_as_by_the_loss():
    batch = arrays()
    maps = tensor(batch["maps"])
    labels = [None, *(tensor(batch[name]) for name in LABELS)]
    for predicts, targets, error, text in (
        ({}, labels, ValueError, 'expected the key "maps"'),
        ({"maps": maps[:, :1]}, labels, ValueError, r"model\.train\(\)"),
        ({"maps": maps.astype("int32")}, labels, TypeError, "expected a float dtype"),
        ({"maps": maps}, labels[1:], ValueError, "expected 5 entries"),
        ({"maps": maps}, [*labels[:4], labels[4][:, :2]], ValueError, r"labels\[4\] .* shape"),
        ({"maps": maps, "distance_maps": maps}, labels, ValueError, 'the key "cbn_maps"'),
    ):
        with pytest.raises(error, match=text):
            validate_batch(predicts, targets)


def test_static_graph_has_no_values_to_read():
    paddle.enable_static()
    try:
        with pytest.raises(RuntimeError, match=r"validate_batch: expected eager mode.*outside the"):
            validate_batch({}, [])
    finally:
        paddle.disable_static()


REPORTED = {
    "no_text": "labels: no text counts in the batch, and part of it is ignored",
    "all_ignored": "labels: every pixel of the batch is ignored",
    "all_text": "labels: no pixel without text counts",
    "soft_labels": "labels[3] (shrink_map): expected 0 and 1, got 0.",
}


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_cases(name, caplog):
    """Those of noise are refused; the sums of the others are NumPy's, and little is reported."""
    predicts, labels, _ = golden_batch(GOLDEN_CASES[name])
    outside = any(a.min() < 0 or a.max() > 1 for a in (predicts["maps"], *labels[1:]))

    def run():
        grad = {key: tensor(p, grad=True) for key, p in predicts.items()}
        return validate_batch(grad, tensors(labels))

    if outside:
        with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
            run()
    else:
        g, m = labels[3:]
        np.testing.assert_allclose(run().positive, (g * m).sum((1, 2), np.float64), rtol=1e-6)
        starts = [start for case, start in REPORTED.items() if name.startswith(case)]
        assert len(caplog.records) == len(starts)
        assert all(r.getMessage().startswith(s) for r, s in zip(caplog.records, starts))


# Weights of pixels ------------------------------------------------------------------------------


def with_weights(weights):
    batch = arrays()
    labels = [None, *(tensor(batch[name]) for name in LABELS), tensor(weights)]
    return {"maps": tensor(batch["maps"], grad=True)}, labels


def test_weights_of_pixels_are_read_and_may_exceed_one(caplog):
    weights = np.ones((N, H, W))
    weights[0, 1, 1:4] = 5.5
    summary = validate_batch(*with_weights(weights))
    assert summary.ranges["labels[5] (text_weights)"] == (1.0, 5.5)
    assert summary.positive == validate(arrays()).positive and not caplog.records


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_weights_that_are_not_above_0(value, said):
    weights = np.ones((N, H, W))
    weights[1, 2, 3] = value
    expected = rf"labels\[5\] \(text_weights\): expected finite numbers above 0, got {value}"
    with pytest.raises(ValueError, match=expected + r".* image 1.*1 of 48"):
        validate_batch(*with_weights(weights))
    DBLoss()(*with_weights(weights))
    assert "above 0" in said()[0]
