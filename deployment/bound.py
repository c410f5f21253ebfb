"""`python -m limbeck.deployment.bound PARENT COMMAND...`: become a command that does not outlive its parent, even if that is killed.

It imports nothing of limbeck, because every process that a supervisor starts begins here.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def become(parent: int, command: list[str]) -> None:
    """Turn this process into `command`, which gets SIGTERM when the process `parent` ends (on Linux). If it has ended, do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:
        os.execvp(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
