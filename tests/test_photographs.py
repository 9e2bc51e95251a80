"""The photographs of the training example: reading them, and the crops that it learns from."""

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
from label_files import SHADES, SKIPPED, WORD, write_label_file

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def photographs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module("photographs")


def pages(photographs, *where, **options):
    return photographs.Photographs(photographs.read_labels(*where, **options))


def test_a_label_file_gives_images_texts_and_what_is_ignored(photographs, tmp_path):
    file = write_label_file(tmp_path / "some.txt", count=3)
    read = pages(photographs, file)
    assert len(read) == 3
    image, texts, ignored = read[2]
    assert image.shape == (288, 352, 3) and image.dtype == np.uint8
    assert image[60, 100].tolist() == [SHADES["word"]] * 3
    np.testing.assert_array_equal(texts, [WORD, SKIPPED])
    assert ignored == [False, True]
    assert [label.image.name for label in read[1:].labels] == ["some_1.png", "some_2.png"]


def test_paths_are_relative_to_the_folder_of_images(photographs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file = write_label_file(tmp_path / "some.txt", count=1)
    moved = file.rename(tmp_path / "elsewhere" / file.name)
    assert pages(photographs, moved, images=tmp_path)[0].image.shape == (288, 352, 3)
    (tmp_path / "some_0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images are not there.*some_0\.png\. "):
        pages(photographs, moved, images=tmp_path)


def test_what_is_no_image_is_named_before_a_step_and_what_broke_off_when_it_is_read(
    photographs, tmp_path
):
    file = write_label_file(tmp_path / "some.txt", count=3)
    second, third = tmp_path / "some_1.png", tmp_path / "some_2.png"
    third.write_bytes(third.read_bytes()[:60])
    broken = pages(photographs, file)[2:]
    with pytest.raises(FileNotFoundError, match=r"some_2\.png: no such image, or none that"):
        broken[0]
    second.write_text("<html>")
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images .*; the first is .*some_1\.png\. "):
        pages(photographs, file)


def test_a_label_file_with_too_few_photographs_is_refused(photographs, tmp_path):
    file = write_label_file(tmp_path / "some.txt", count=1)
    with pytest.raises(ValueError, match=r"some\.txt: expected 2 or more photographs .*, got 1"):
        photographs.read_labels(file, least=2)


def test_a_large_photograph_and_its_texts_are_reduced(photographs, tmp_path):
    image, texts, _ = pages(photographs, write_label_file(tmp_path / "a.txt", 1, (2560, 1600)))[0]
    assert image.shape == (1280, 800, 3)
    np.testing.assert_array_equal(texts[0], WORD / 2)


def test_the_texts_of_a_crop_are_where_its_pixels_say(photographs, tmp_path):
    photograph = pages(photographs, write_label_file(tmp_path / "a.txt", 1, (600, 700)))
    areas = []
    for seed in range(40):
        image, texts, _ = photographs.random_crop(photograph, np.random.default_rng(seed))
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        drawn = np.full((256, 256), 120, np.uint8)
        drawn[(image == 0).all(axis=-1)] = 0  # beyond the photograph, since it is turned
        for corners in texts:
            # Whichever it is can be seen: one shade is above that of the photograph, one below.
            mask = cv2.fillConvexPoly(np.zeros_like(drawn), np.int32(corners.round()), 1)
            shade = SHADES["word" if image[mask == 1].mean() > 120 else "###"]
            drawn[mask == 1] = shade
            areas.append(cv2.contourArea(corners))
        # What differs is rounding along the edges.
        assert (np.abs(image[..., 0].astype(int) - drawn) > 40).mean() < 0.01
    assert len(areas) > 40
    # 100 x 40 pixels, by a scale of 0.5 to 1.2.
    assert 1000 < min(areas) < 1400 and 4800 < max(areas) < 5761


def test_most_crops_have_a_word_and_it_moves(photographs):
    image, word = np.zeros((2000, 2000, 3), np.uint8), WORD + np.float32(900)
    page = photographs.Page(image, [word], [False])
    crops = [photographs.random_crop([page], np.random.default_rng(i)) for i in range(100)]
    centres = [text.mean(axis=0) for crop in crops for text in crop.texts]
    # 0.8 of them are around it, and the others meet it by chance, in 1 to 6 of 100.
    assert 70 < len(centres) < 92
    assert (np.ptp(centres, axis=0) > 100).all()
    page = page._replace(ignored=[True])
    crops = [photographs.random_crop([page], np.random.default_rng(i)) for i in range(100)]
    assert sum(len(crop.texts) for crop in crops) < 15


def test_a_text_of_which_less_than_half_is_inside_is_ignored(photographs, tmp_path):
    page = pages(photographs, write_label_file(tmp_path / "a.txt", 1, (400, 400)))[0]
    page = page._replace(ignored=[False, False])
    shares = {True: [], False: []}
    for seed in range(100):
        crop = photographs.random_crop([page], np.random.default_rng(seed))
        for corners, ignored in zip(crop.texts, crop.ignored):
            mask = cv2.fillConvexPoly(np.zeros((1024, 1024)), np.int32(corners + 384), 1)
            shares[ignored].append(mask[384:640, 384:640].sum() / mask.sum())
    # Corners are clipped to the crop, as its labels clip them: of a turned text a little more.
    assert 0.4 < min(shares[False]) < 0.6 < max(shares[False])
    assert min(shares[True]) < 0.3 < max(shares[True]) < 0.6
