"""`validate_batch` counts what is in a batch and names the first pixel that is wrong."""

import numpy as np
import paddle
import pytest
from helpers import GOLDEN_CASES, LABELS, golden_batch, make_batch, tensor, tensors

from dbloss import DBLoss, validate_batch

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


@pytest.mark.parametrize("value", [-0.5, 1.0000001, 7.5])
@pytest.mark.parametrize("channel", CHANNELS)
def test_prediction_outside_0_to_1(channel, value):
    batch = arrays()
    set_prediction(batch, channel, value)
    text = message(batch)
    assert text.startswith(f'predicts["maps"][:, {CHANNELS.index(channel)}] ({channel}): ')
    assert f"got {value} in image 1 at pixel (y, x) = (2, 3)" in text
    assert "outside [0, 1]: 1 of 48. Put a sigmoid at the end of the head;" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 2.0])
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
    assert text.endswith("It holds 0 and 255: divide it by 255, or compare it with > 0.")


def test_threshold_map_of_8_bits():
    batch = arrays()
    batch["threshold_map"][:] = 178
    text = message(batch)
    assert "(threshold_map)" in text and "48 of 48" in text and "divide 8-bit values by 255" in text


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
    summary = validate_batch({"maps": tensor(no_text(kind)["maps"])}, labels)
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


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_cases(name):
    """Those of noise or of masks of 255 are refused; the sums of the others are NumPy's."""
    predicts, labels, _ = golden_batch(GOLDEN_CASES[name])
    outside = any(a.min() < 0 or a.max() > 1 for a in (predicts["maps"], *labels[1:]))

    def run():
        return validate_batch({key: tensor(p) for key, p in predicts.items()}, tensors(labels))

    if outside:
        with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
            run()
    else:
        g, m = labels[3:]
        np.testing.assert_allclose(run().positive, (g * m).sum((1, 2), np.float64), rtol=1e-6)
