"""Starting several processes with the launcher of Paddle, and never waiting for them long."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# The launcher picks free ports by itself; the processes shall talk over the loopback interface.
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}


def launch(size, folder, script, *options):
    """Run `script` in `size` processes, and show their logs if one of them fails.

    They print to workerlog.0 and so on in `folder`.
    """
    command = [sys.executable, "-m", "paddle.distributed.launch", "--backend", "gloo"]
    command += ["--nproc_per_node", size, "--log_dir", folder, script, *options]
    launcher = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    code = None  # of a launcher that takes too long
    try:
        with suppress(subprocess.TimeoutExpired):
            code = launcher.wait(150)
    finally:
        if launcher.poll() is None:
            launcher.send_signal(signal.SIGINT)  # on which it ends its processes
            try:
                launcher.wait(60)
            finally:
                launcher.kill()
    assert code == 0, f"exit status {code}\n{logs(folder)}"


def logs(folder):
    """What the processes printed."""
    paths = sorted(Path(folder).glob("workerlog.*"))
    return "\n".join(f"---- {path.name}\n{path.read_text()}" for path in paths)
