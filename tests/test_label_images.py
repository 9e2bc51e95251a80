"""What the label doctor makes of image files: the size that OpenCV gives them, or a problem."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from dbloss.labels import check_labels
from dbloss.labels.images import read_header

SIZE = (40, 64)
ORIENTATION = 0x0112
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


def picture():
    noise = np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)
    return Image.fromarray(cv2.resize(noise, SIZE[::-1]))


def saved(form, **options):
    file = io.BytesIO()
    picture().save(file, form, **options)
    return file.getvalue()


def encoded(suffix, dtype=np.uint8):
    return cv2.imencode(suffix, np.asarray(picture()).astype(dtype))[1].tobytes()


def opened(path):
    """An image as PaddleOCR reads it; `cv2.imread` makes something else of some files."""
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def exif(orientation, order="<", form="H"):
    """A block of EXIF data with one tag; a BYTE is "B", a SHORT "H", a LONG "L"."""
    kind = {"B": 1, "H": 3, "L": 4}[form]
    value = struct.pack(order + form, orientation).ljust(4, b"\0")
    entry = struct.pack(order + "HHL", ORIENTATION, kind, 1) + value
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HLH", 42, 8, 1)
    return b"Exif\0\0" + head + entry + struct.pack(order + "L", 0)


def chunk(name, data):
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(before=b"", after=b""):
    """A PNG with chunks before and after its pixels."""
    content = saved("PNG")
    return content[:33] + before + content[33:-12] + after + content[-12:]


def tiff(orientation):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    return saved("TIFF", tiffinfo=tags)


def png_with_xmp():
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return saved("PNG", pnginfo=text)


def forms():
    """Files whose size is to be that of OpenCV, by name."""
    for orientation in range(1, 9):
        yield f"jpeg-{orientation}", lambda n=orientation: saved("JPEG", exif=exif(n))
        yield f"tiff-{orientation}", lambda n=orientation: tiff(n)
    for form in ("PNG", "WEBP", "AVIF"):
        for orientation in (1, 5, 6):
            name = f"{form.lower()}-{orientation}"
            yield name, lambda f=form, n=orientation: saved(f, exif=exif(n))
    for order in "<>":
        for form in "BL":
            for file in ("JPEG", "PNG"):
                name = f"{file.lower()}-{form}{order}"
                yield name, lambda o=order, f=form, i=file: saved(i, exif=exif(6, o, f))
    for form in ("JPEG", "WEBP", "AVIF"):
        yield f"{form.lower()}-xmp", lambda f=form: saved(f, xmp=XMP)
    yield "png-xmp", png_with_xmp
    yield "png-exif-after-the-pixels", lambda: png(after=chunk(b"eXIf", exif(6)[6:]))
    yield "png-exif-that-is-none", lambda: png(chunk(b"eXIf", b"no EXIF data at all"))
    for suffix in (".hdr", ".pfm"):
        yield suffix, lambda s=suffix: encoded(s, np.float32)
    for suffix in (".pam", ".ppm", ".ras", ".jp2", ".bmp", ".gif"):
        yield suffix, lambda s=suffix: encoded(s)
    for form in ("JPEG", "PNG", "BMP"):
        yield f"{form.lower()}-and-more", lambda f=form: saved(f) + b"more" * 99
    for form in ("DDS", "TGA", "ICO"):  # Pillow's alone
        yield form.lower(), lambda f=form: saved(f)


FORMS = dict(forms())


@pytest.fixture(params=FORMS)
def image(request, tmp_path):
    """A file of each form, and what OpenCV makes of it."""
    try:
        content = FORMS[request.param]()
    except (KeyError, OSError, cv2.error) as error:
        pytest.skip(f"cannot be written here: {error}")
    path = tmp_path / "image"
    path.write_bytes(content)
    read = opened(path)
    return path, None if read is None else read.shape[:2]


def test_the_size_is_that_of_opencv(image):
    path, size = image
    header = read_header(str(path))
    if size is None:
        assert "no image that OpenCV can read" in header
    else:
        assert header == size == read_header(str(path), read_all=True)


def test_orientations_turn_the_sides():
    """Of what OpenCV is asked about, some is turned and some is not."""
    turned = {"jpeg-5", "jpeg-6", "jpeg-7", "jpeg-8", "tiff-5", "tiff-7", "png-6", "jpeg-B<"}
    for name in (*turned, "jpeg-1", "jpeg-3", "tiff-3", "jpeg-B>", "jpeg-xmp"):
        read = cv2.imdecode(np.frombuffer(FORMS[name](), np.uint8), cv2.IMREAD_COLOR)
        assert read.shape[:2] == (SIZE[::-1] if name in turned else SIZE), name


@pytest.mark.parametrize("name", ["jpeg-6", "png-1", "tiff-1", "webp-1", ".bmp"])
def test_sound_files_are_not_read_as_a_whole(tmp_path, monkeypatch, name):
    path = tmp_path / "image"
    path.write_bytes(FORMS[name]())
    expected = opened(path).shape[:2]
    monkeypatch.setattr("dbloss.labels.images._read_size", None)
    assert read_header(str(path)) == expected


def test_an_image_of_more_pixels_than_pillow_takes(tmp_path, monkeypatch):
    """A PNG of 15,000 x 12,000 is one."""
    path = tmp_path / "image.png"
    path.write_bytes(saved("PNG"))
    for most in (SIZE[0] * SIZE[1] // 4, SIZE[0] * SIZE[1] - 1):  # an error, a warning
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        assert read_header(str(path)) == SIZE


ENDS = {
    **{form: lambda f=form: saved(f) for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")},
    "AVIF": lambda: saved("AVIF"),
    "progressive": lambda: saved("JPEG", progressive=True),
    "thumbnail": lambda: saved("JPEG", exif=exif(1) + saved("JPEG")),
    "lzw": lambda: saved("TIFF", compression="tiff_lzw"),
    "JPEG2000": lambda: saved("JPEG2000"),
    ".hdr": lambda: encoded(".hdr", np.float32),
    ".pam": lambda: encoded(".pam"),
    ".ppm": lambda: encoded(".ppm"),
}


@pytest.mark.parametrize("form", ENDS)
def test_a_file_that_broke_off_is_a_problem(tmp_path, form):
    """OpenCV reads none of them, and PaddleOCR trains on another image."""
    content = ENDS[form]()
    path = tmp_path / "image"
    path.write_bytes(content)
    if not isinstance(read_header(str(path)), tuple):
        pytest.skip("OpenCV does not read this form here")
    for length in (len(content) * 3 // 10, len(content) * 9 // 10, len(content) - 1):
        path.write_bytes(content[:length])
        assert opened(path) is None
        header = read_header(str(path))
        assert "et the file again" in header, (length, header)


def test_whatever_a_header_does_is_a_problem_of_its_line(tmp_path):
    """A byte of each kind of file is wrong in turn; a check of them all comes to its end."""
    rng = np.random.default_rng(1)
    (tmp_path / "sound.png").write_bytes(saved("PNG"))
    names = ["sound.png"]
    for form in ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP", "AVIF", "DDS", "JPEG2000", "ICO"):
        content = saved(form, exif=exif(6)) if form in ("JPEG", "PNG", "WEBP") else saved(form)
        for k in range(40):
            broken = bytearray(content)
            broken[rng.integers(min(len(content), 200))] = rng.integers(256)
            names.append(f"{form}-{k}")
            (tmp_path / names[-1]).write_bytes(broken)
    entries = '[{"transcription": "word", "points": [[5, 5], [50, 5], [50, 30], [5, 30]]}]'
    file = tmp_path / "Label.txt"
    file.write_text("".join(f"{name}\t{entries}\n" for name in names))
    report = check_labels(file)
    missing = [problem.line for problem in report.problems if problem.kind == "missing-image"]
    read = [opened(tmp_path / name) is not None for name in names]
    assert 1 not in missing and missing
    # Damage behind the header is found where all images are read, and then nothing else is.
    report = check_labels(file, read_images=True)
    every = [problem.line for problem in report.problems if problem.kind == "missing-image"]
    assert every == [number for number, fits in enumerate(read, start=1) if not fits]
    assert set(missing) <= set(every)


def test_all_images_are_read_where_asked(tmp_path, capsys):
    content = bytearray(saved("PNG"))
    content[len(content) // 2] ^= 255  # within the pixels
    (tmp_path / "a.png").write_bytes(content)
    entries = json.dumps([{"transcription": "w", "points": [[5, 5], [50, 5], [50, 30], [5, 30]]}])
    (tmp_path / "Label.txt").write_text(f"a.png\t{entries}\n")
    assert check_labels(tmp_path / "Label.txt").counts() == {}
    assert check_labels(tmp_path / "Label.txt", read_images=True).counts() == {"missing-image": 1}

    from dbloss.labels.__main__ import main

    assert main([str(tmp_path / "Label.txt"), "--read-images"]) == 1
    assert "missing-image" in capsys.readouterr().out
    with pytest.raises(TypeError, match="read_images: expected True or False"):
        check_labels(tmp_path / "Label.txt", read_images="yes")
