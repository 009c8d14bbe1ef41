"""Last word: one sentence for the user of mpirun when this rank ends early.

When a rank dies, mpirun ends all others. MPICH's kills them at once and drops their remaining output; Open MPI's sends
SIGTERM first. So a shell waits beside rank 0, in its own process group, on a pipe that closes when rank 0 ends in any
way, and prints the sentence unless it was disarmed. MPICH's mpirun no longer passes on its output by then, so it writes
to mpirun's own stderr where that is on this machine.
"""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import suppress

import psutil

from fogconv.cluster.transport.mpi.launch import tolerant

LAUNCHERS = frozenset({"mpirun", "mpiexec", "mpiexec.hydra", "prterun", "prte", "orterun"})
SENTENCE = (
    "fogconv: a rank died (mpirun reports which), or the job was stopped, so mpirun ended all ranks. Over MPI none may be "
    "lost, but workers over ZeroMQ may (fogconv-worker and --cluster), and Open MPI's ranks with mpirun --with-ft ulfm."
)
TOLERANT_SENTENCE = (
    "fogconv: rank 0, the master, died or was stopped; any other rank may be lost, but without it the job is over."
)
SILENCE_S = 1.0
# A launcher's own message may overwrite text appended to the same file, so the shell writes to a file after mpirun's end.
_SCRIPT = """
IFS= read -r word && exit
while [ "$2" ] && [ "$((turn += 1))" -le 80 ] && kill -0 "$2" 2>&-; do sleep 0.05; done
printf '%s\\n' "$1" >&2
"""


class LastWord:
    """Armed from its creation until ``silence``. Without a shell it never prints."""

    def __init__(self) -> None:
        sentence = TOLERANT_SENTENCE if tolerant() else SENTENCE
        launcher = _launcher()
        stderr = None if launcher is None else _stderr_of(launcher)
        after = "" if launcher is None or stderr is None or not stat.S_ISREG(os.fstat(stderr).st_mode) else str(launcher)
        self._shell: subprocess.Popen[bytes] | None = None
        try:
            with suppress(OSError):
                self._shell = subprocess.Popen(
                    ["/bin/sh", "-c", _SCRIPT, "fogconv", sentence, after],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
        finally:
            if stderr is not None:
                os.close(stderr)

    def silence(self) -> None:
        """Disarm it. A second call does nothing. A signal handler may call it."""
        shell, self._shell = self._shell, None
        if shell is None or shell.stdin is None:
            return
        with suppress(OSError, ValueError):
            os.write(shell.stdin.fileno(), b"\n")
            shell.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            shell.wait(SILENCE_S)


def _launcher() -> int | None:
    """The process id of the mpirun above this process, if it is on this machine."""
    with suppress(psutil.Error):
        return next((parent.pid for parent in psutil.Process().parents() if parent.name() in LAUNCHERS), None)
    return None


def _stderr_of(pid: int) -> int | None:
    with suppress(OSError):
        return os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NOCTTY)
    return None
