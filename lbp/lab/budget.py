"""When to stop training: after some minutes, or when the user or the system asks for it."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from lbp.errors import LbpError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def check_minutes(minutes: float | None) -> None:
    """Raise `LbpError` unless so many minutes are a time to train for; None is no limit."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise LbpError(f"minutes = {minutes:g} is out of range: a number above 0 is needed")


class Budget:
    """Decides between epochs whether to stop: when the time is used up, after Ctrl-C or TERM.

    Within the `with` block a first signal asks for a stop after the epoch in progress; a second one
    stops at once, which loses that epoch.

    Args:
        minutes: The time allowed from now on; None for no limit.
        stop: Asked as well; for a worker, whether the process that it works for stops.

    Raises:
        LbpError: If `minutes` is out of range.
    """

    def __init__(
        self, minutes: float | None = None, stop: Callable[[], bool] | None = None
    ) -> None:
        check_minutes(minutes)
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self.interrupted = False
        self._stop = stop
        self._previous: dict[signal.Signals, Any] = {}

    def spent(self, next_epoch_seconds: float = 0.0) -> bool:
        """Return whether an epoch of that length should not begin."""
        if self._stop is not None and self._stop():
            return True
        return self.interrupted or time.monotonic() + next_epoch_seconds > self._end

    @property
    def minutes(self) -> float | None:
        """The time that is left; None for no limit."""
        return None if self._end == math.inf else max(1e-9, (self._end - time.monotonic()) / 60)

    def __enter__(self) -> "Budget":
        for number in _SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._interrupt)
            except ValueError:  # only the main thread may
                break
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        # Not print(): a signal can come in the middle of another one. Some have no such stream.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(
                sys.stderr.fileno(), b"stopping after this epoch; Ctrl-C again stops at once\n"
            )
