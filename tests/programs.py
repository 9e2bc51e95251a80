"""Starting Python programs, and leaving none behind: not after a failure, Ctrl-C or a hang."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

HANGS = 900  # seconds; no busy machine makes a program of the tests take that long
# Paddle's launcher picks free ports by itself; the processes shall talk over the loopback.
_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


@contextmanager
def started(*words, env=None, **settings):
    """A Python program; where the block ends, it and all that it has started have ended too."""
    mark = f"DBLOSS_TEST_PROGRAM={uuid.uuid4().hex}"
    with _heeding_ctrl_c():
        program = subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**os.environ, **_ENVIRONMENT, **(env or {}), **dict([mark.split("=")])},
            start_new_session=True,
            text=True,
            **settings,
        )
    limit = threading.Timer(HANGS, _end, (program.pid, mark))
    limit.daemon = True
    limit.start()
    try:
        with program:
            try:
                yield program
            finally:
                _end(program.pid, mark)
    finally:
        limit.cancel()


@contextmanager
def _heeding_ctrl_c():
    """Let no program ignore SIGINT because a script has started pytest with `&`, which does."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def run(*words, **settings):
    """The status of a program that has run to its end, and what it has printed."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*words, **pipes, **settings) as program:
        stdout, stderr = program.communicate()
    return subprocess.CompletedProcess(program.args, program.returncode, stdout, stderr)


def interrupted(*words, once, stream="stderr", by=signal.SIGINT, **settings):
    """The same of a program that gets Ctrl-C, or another signal, once a line matches a pattern.

    The pipes close when the last process that it has started ends.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*words, **pipes, **settings) as program:
        seen = any(re.search(once, line) for line in getattr(program, stream))
        if seen:
            program.send_signal(by)
        stdout, stderr = program.communicate()
    assert seen, f"{once!r} was never printed; status {program.returncode}\n{stderr}"
    return subprocess.CompletedProcess(program.args, program.returncode, stdout, stderr)


def launch(size, folder, script, *options):
    """Run `script` in `size` processes with Paddle's launcher; show their logs if one fails.

    They print to workerlog.0 and so on in `folder`.
    """
    command = ["-m", "paddle.distributed.launch", "--backend", "gloo"]
    command += ["--nproc_per_node", size, "--log_dir", folder, script, *options]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started(*command, cwd=folder, **silent) as launcher:
        code = launcher.wait()
    logs = (f"---- {x.name}\n{x.read_text()}" for x in sorted(Path(folder).glob("workerlog.*")))
    assert code == 0, "\n".join([f"exit status {code}", *logs])


def _end(pid, mark):
    """Kill a program and what it started: its session, and what bears its mark in others."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    while found := processes_with(mark):
        for other in found:
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.01)


def processes_with(entry):
    """The processes, but zombies, with this in their environment; Linux alone can tell."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if entry.encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found
