"""No program outlives the test that has started it."""

import signal
import subprocess
import time
from pathlib import Path

import programs
import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="needs a list of processes"
)

ENTRY = "DBLOSS_TEST_OF_PROGRAMS=1"
ENVIRONMENT = dict([ENTRY.split("=")])
PARENT = """
import subprocess, sys, time
child = [sys.executable, "-c", "import time; print('child', flush=True); time.sleep(1000)"]
subprocess.Popen(child, start_new_session=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("error", [AssertionError, KeyboardInterrupt])
def test_what_a_program_has_started_in_another_session_ends_with_the_test(error):
    pipe = {"stdout": subprocess.PIPE, "env": ENVIRONMENT}
    with pytest.raises(error), programs.started("-c", PARENT, **pipe) as program:
        assert program.stdout.readline() == "child\n"
        assert len(programs.processes_with(ENTRY)) == 2
        raise error
    assert not programs.processes_with(ENTRY)


def test_a_program_heeds_ctrl_c_where_pytest_was_started_to_ignore_it():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = programs.run("-c", "import signal; print(signal.getsignal(signal.SIGINT))")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)
    assert "default_int_handler" in done.stdout


def test_a_program_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(programs, "HANGS", 1)
    assert programs.run("-c", PARENT, env=ENVIRONMENT).returncode == -signal.SIGKILL
    assert not programs.processes_with(ENTRY)


def test_pytest_that_is_told_to_end_ends_its_programs(tmp_path):
    """By SIGTERM, which is what a cancelled run of a CI service sends."""
    begun = tmp_path / "begun"  # pytest itself starts further processes while it imports Paddle
    program = PARENT.replace("\ntime.sleep", f"\nopen({str(begun)!r}, 'w').close()\ntime.sleep")
    code = f"import programs\n\ndef test_hangs():\n    programs.run('-c', {program!r})\n"
    (tmp_path / "test_hanging.py").write_text(code)
    tests = Path(__file__).parent
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tests}:{tests.parent}"}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "conftest", tmp_path]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with programs.started(*words, cwd=tmp_path, env=environment, **silent) as run:
        while not begun.exists():
            assert run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        assert run.wait() == pytest.ExitCode.INTERRUPTED
        assert not programs.processes_with(ENTRY)
