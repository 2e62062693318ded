"""Being asked to stop, or to write a checkpoint.

SIGTERM asks for a checkpoint and an exit within the grace period, SIGUSR1 for
a checkpoint now. Handlers that only take note of them are installed by the
first call of resume, checkpoint, should_stop or should_checkpoint; until then
both signals do what they do to any process.
"""

import signal
import threading
from types import FrameType
from typing import Optional

from ._run import note_once

STOPPED = 143
"""The exit status of a task that stopped because it was asked to: 128 + SIGTERM.

It must not be 0, which would say that the task is complete.
"""


class Stopped(SystemExit):
    """Ends the process with status STOPPED, by way of any finally block."""

    def __init__(self) -> None:
        super().__init__(STOPPED)


class _Asked:
    def __init__(self) -> None:
        self.installed = False
        self.stop = False
        self.checkpoint = False

    def install(self) -> None:
        if self.installed:
            return
        if threading.current_thread() is not threading.main_thread():
            note_once("SIGTERM and SIGUSR1 are not caught yet: call drover.should_stop() once on the main thread")
            return
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_checkpoint)
        self.installed = True

    def _on_stop(self, _signum: int, _frame: Optional[FrameType]) -> None:
        self.stop = True
        self.checkpoint = True

    def _on_checkpoint(self, _signum: int, _frame: Optional[FrameType]) -> None:
        self.checkpoint = True


asked = _Asked()


def should_stop() -> bool:
    """Whether SIGTERM came: write a checkpoint and raise Stopped()."""
    asked.install()
    return asked.stop


def should_checkpoint() -> bool:
    """Whether SIGUSR1 or SIGTERM came since the last checkpoint."""
    asked.install()
    return asked.checkpoint
