"""`--help` of every program needs no Paddle and no extra, and imports nothing slow."""

from pathlib import Path

import programs
import pytest

ROOT = Path(__file__).parents[1]
MARK = 'if __name__ == "__main__"'
PROGRAMS = [
    [file]
    for folder in ("examples", "benchmarks")
    for file in sorted((ROOT / folder).glob("*.py"))
    if MARK in file.read_text("utf-8")
]
COMMANDS = [["-m", f"dbloss{name}"] for name in ("", ".labels", ".plot", ".paddleocr")]
MISSING = "paddle numba cv2 pyclipper shapely matplotlib PIL skimage tqdm torch scipy"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An environment in which none of these can be imported."""
    folder = tmp_path_factory.mktemp("bare")
    for name in MISSING.split():
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError({name!r}, name={name!r})\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.parametrize("program", PROGRAMS + COMMANDS, ids=lambda words: Path(words[-1]).stem)
def test_help_needs_nothing(program, bare, tmp_path):
    done = programs.run(*program, "--help", env=bare, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert not done.stderr


def test_without_paddle_a_command_that_is_to_run_says_what_to_install(bare, tmp_path):
    done = programs.run("-m", "dbloss", env=bare, cwd=tmp_path)
    assert done.returncode and "CPU: pip install" in done.stderr


def test_the_package_is_whole_in_a_program_of_another_name_that_is_asked_for_help(tmp_path):
    package = tmp_path / "mytool"
    package.mkdir()
    (package / "__init__.py").write_text("from dbloss import DBLoss\n")
    (package / "__main__.py").write_text("print('its own help')\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = programs.run("-m", "mytool", "--help", env=environment, cwd=tmp_path)
    assert done.stdout == "its own help\n", done.stderr
