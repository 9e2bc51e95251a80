"""Two wheels of Paddle never meet by an extra of this package, and are noticed where they did."""

import importlib
import itertools
import json
import runpy
import subprocess
import sys
import types
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dbloss
from dbloss import __main__ as report
from dbloss.base import checks
from dbloss.base.wheels import check_opencv, two_opencvs, two_wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
BRING_PADDLE = {"cpu", "test"}

# The extras -------------------------------------------------------------------------------------


def write_wheel(folder, name, version, lines=()):
    """A wheel that is nothing but its metadata."""
    stem = f"{name.replace('-', '_')}-{version}"
    head = [f"Name: {name}", f"Version: {version}", *lines]
    files = {
        "METADATA": "Metadata-Version: 2.1\n" + "\n".join(head) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{stem}.dist-info/{file}", text)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """What pip would install for an extra in an environment with a GPU wheel of Paddle.

    Every dependency is a stand-in of the least version asked for, so nothing is fetched.
    """
    pytest.importorskip("pip")
    wheels, environment = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("gpu")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [f"Requires-Dist: {each}" for each in project["dependencies"]]
    for extra, needed in extras.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {each}; extra == "{extra}"' for each in needed]
    write_wheel(wheels, "dbloss", "1", lines)
    least = {}
    for text in itertools.chain(project["dependencies"], *extras.values()):
        needed = Requirement(text)
        bounds = [each.version for each in needed.specifier if each.operator == ">="]
        least[needed.name] = max(bounds, default=least.get(needed.name, "1"))
    del least["dbloss"]
    for name, version in least.items():
        write_wheel(wheels, name, version)
    write_wheel(wheels, "paddlepaddle-gpu", "3.3.1")
    venv.create(environment)
    python = next(environment.glob("[bS]*/python*"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-index", "--find-links", str(wheels)]
    subprocess.run([*pip, "paddlepaddle-gpu"], check=True)

    def resolve(extra):
        command = [*pip, "--dry-run", "--report", "-", f"dbloss[{extra}]"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        installed = json.loads(done.stdout)["install"]
        return {each["metadata"]["name"] for each in installed}

    return extras, resolve


def test_no_extra_brings_paddle_but_those_that_say_so(resolved):
    extras, resolve = resolved
    assert set(extras) > BRING_PADDLE
    for extra in extras:
        names = resolve(extra)
        assert "dbloss" in names and "numpy" in names
        assert ("paddlepaddle" in names) == (extra in BRING_PADDLE), extra
        assert "paddlepaddle-gpu" not in names


def test_the_messages_name_the_extras_that_bring_paddle(wheels):
    wheels("one", "paddlepaddle", "paddlepaddle-gpu")
    last = two_wheels().splitlines()[-1]
    assert all(extra in last for extra in BRING_PADDLE)


# Two of them in one environment -----------------------------------------------------------------


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Call it with a folder and wheels, NAME or NAME==VERSION: they are installed there."""

    def install(folder, *names):
        for name in names:
            name, _, version = name.partition("==")
            version = version or "9.9"
            info = tmp_path / folder / f"{name.replace('-', '_')}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
        monkeypatch.syspath_prepend(tmp_path / folder)

    return install


def import_paddle():
    """Run the module that imports Paddle, as the first import of the package does."""
    runpy.run_path(str(Path(dbloss.__file__).parent / "base" / "wheels.py"))


def test_two_wheels_are_reported_when_the_package_is_imported(wheels, caplog):
    wheels("one", "paddlepaddle", "paddlepaddle-gpu")
    import_paddle()
    (record,) = caplog.records
    text = record.getMessage()
    assert (record.name, record.levelname) == ("dbloss", "WARNING")
    assert text.startswith("paddlepaddle 9.9 and paddlepaddle-gpu 9.9 are both installed in ")
    assert "pip uninstall -y paddlepaddle paddlepaddle-gpu\n" in text
    assert 'pip install "dbloss[cpu]"' in text and "https://www.paddlepaddle.org.cn" in text


@pytest.mark.parametrize("broken", [None, "a file of the other wheel"])
def test_where_they_broke_paddle_the_error_says_so(broken, wheels, monkeypatch, tmp_path):
    wheels("one", "paddlepaddle", "paddlepaddle-gpu")
    if broken:
        (tmp_path / "one" / "paddle.py").write_text(f"raise OSError({broken!r})")
        monkeypatch.delitem(sys.modules, "paddle")
    else:
        monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(ImportError, match=r"(?s)is broken.* are both installed.*pip uninstall"):
        import_paddle()


def test_one_wheel_or_two_in_folders_of_their_own_are_no_fault(wheels, caplog):
    assert not two_wheels()
    wheels("one", "paddlepaddle-gpu")
    assert not two_wheels()
    wheels("another", "paddlepaddle")
    import_paddle()
    assert not caplog.records


def test_without_paddle_both_ways_to_install_it_are_shown(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(ImportError, match=r'(?s)not installed.*"dbloss\[cpu\]".*paddlepaddle-gpu'):
        import_paddle()


def test_an_error_of_paddle_itself_passes(monkeypatch, tmp_path):
    (tmp_path / "paddle.py").write_text("raise OSError('libcuda')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "paddle")
    with pytest.raises(OSError, match="libcuda"):
        import_paddle()


# The same of OpenCV -----------------------------------------------------------------------------

CLASH = "opencv-contrib-python==4.10.0.84", "opencv-python-headless==5.0.0.93"


@pytest.fixture
def unchecked():
    """OpenCV is looked at once in a process: here once in a test."""
    check_opencv.cache_clear()
    yield
    check_opencv.cache_clear()


def test_two_opencvs_are_named_once(wheels, caplog, unchecked):
    wheels("one", *CLASH)
    for _ in range(2):
        with checks.needing("dbloss.targets", "cv2"):
            pass
    (record,) = caplog.records
    text = record.getMessage()
    assert (record.name, record.levelname) == ("dbloss", "WARNING")
    assert text.startswith(
        "opencv-python-headless 5.0.0.93 and opencv-contrib-python 4.10.0.84 are both installed in "
    )
    assert "pip uninstall -y opencv-python-headless opencv-contrib-python\n" in text
    assert "  pip install opencv-contrib-python==4.10.0.84\n" in text
    assert "pip install dbloss numba" in text


def test_one_opencv_or_two_of_one_version_or_in_two_folders_are_no_fault(wheels):
    assert not two_opencvs()
    wheels("one", "opencv-python", "opencv-contrib-python")  # as PaddleOCR's requirements say
    assert not two_opencvs()
    wheels("another", "opencv-python-headless==1")
    assert not two_opencvs()


def test_an_opencv_of_which_a_part_was_uninstalled_is_named(
    wheels, tmp_path, monkeypatch, unchecked
):
    wheels("one", "opencv-contrib-python==4.10.0.84")
    empty = types.ModuleType("cv2")  # as a folder is without the functions
    empty.__path__ = [str(tmp_path / "one" / "cv2")]
    monkeypatch.setitem(sys.modules, "cv2", empty)
    words = r"is broken.*--force-reinstall --no-deps opencv-contrib-python==4\.10\.0\.84$"
    with pytest.raises(ImportError, match=words), checks.needing("dbloss.targets", "cv2"):
        pass


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (["numba"], "dbloss.targets needs numba, which is not installed.*: pip install numba$"),
        (["cv2", "numba"], "needs cv2 and numba, .*: pip install opencv-python-headless numba$"),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(missing, words, monkeypatch):
    """An extra would bring a second OpenCV over the one that PaddleOCR has pinned."""
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    for name in list(sys.modules):
        if name.startswith(("dbloss.targets", "dbloss.base.compiled")):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=words):
        importlib.import_module("dbloss.targets")


def test_the_self_check_fails_where_two_wheels_are_installed(monkeypatch, wheels, capsys):
    wheels("one", "paddlepaddle", "paddlepaddle-gpu", *CLASH)
    monkeypatch.setattr(report, "_SHAPE", (2, 64, 64))
    assert report.main([]) == 1
    out = capsys.readouterr().out
    assert "OpenCV:        opencv-python-headless 5.0.0.93, opencv-contrib-python 4.10.0.84" in out
    assert "opencv-python-headless 5.0.0.93 and opencv-contrib-python 4.10.0.84 are both" in out
    assert "paddlepaddle 9.9 and paddlepaddle-gpu 9.9 are both installed" in out
    assert out.rstrip().endswith("something is wrong")
