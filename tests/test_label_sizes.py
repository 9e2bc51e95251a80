"""What the report on a label file says of the sizes of texts at the size of the training."""

import json

import cv2
import numpy as np
import pytest

from dbloss.labels import check_labels


def test_what_a_training_has_of_a_page(tmp_path):
    """An image twice as wide as high, in a square crop of its width."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((160, 320, 3), 120, np.uint8))
    sides = {"word": (100, 40), "small": (40, 4), "thin": (40, 0.6)}
    entries = []
    for i, (text, (width, height)) in enumerate(sides.items()):
        corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
        corners = corners + np.array([60 + 70 * i, 60])
        entries.append({"transcription": text, "points": corners.tolist()})
    file = tmp_path / "labels.txt"
    file.write_text(f"a.png\t{json.dumps(entries)}\n")
    report = check_labels(file, size=(320, 320))
    np.testing.assert_allclose(sorted(report.sides), [0.6, 4, 40], 1e-5)
    # Shrinking leaves something of the small text, and nothing of the thin one.
    np.testing.assert_allclose(report.saved, [4])
    # The word moves in by 4000 * 0.84 / 280 = 12 pixels: 77 x 17 of those of the image.
    assert report.text_share == pytest.approx(77 * 17 / (160 * 320))
