"""Starting several processes with the launcher of Paddle, and never waiting for them long."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# The launcher picks free ports by itself; the processes shall talk over the loopback interface.
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def start(size, folder, script, *options):
    """Start `script` in `size` processes, which print to workerlog.0 and so on in `folder`."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--backend", "gloo"]
    command += ["--nproc_per_node", size, "--log_dir", folder, script, *options]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(launcher, timeout=150):
    """Wait for the launcher, and end it and its processes when that takes too long."""
    try:
        return launcher.wait(timeout)
    finally:
        if launcher.poll() is None:
            launcher.send_signal(signal.SIGINT)  # on which it ends its processes
            try:
                launcher.wait(60)
            finally:
                launcher.kill()


def logs(folder):
    """What the processes printed."""
    paths = sorted(Path(folder).glob("workerlog.*"))
    return "\n".join(f"---- {path.name}\n{path.read_text()}" for path in paths)


def launch(size, folder, script, *options):
    """Run `script` in `size` processes, and show their logs if one of them fails."""
    try:
        code = finish(start(size, folder, script, *options))
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{error}\n{logs(folder)}") from error
    assert code == 0, logs(folder)
