"""Metrics."""

import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, SupportsFloat, Tuple

from ._run import note_once, place

_lock = threading.Lock()
_open: Optional[Tuple[Path, int]] = None


def log(
    step: int,
    metrics: Optional[Mapping[str, SupportsFloat]] = None,
    *,
    epoch: Optional[float] = None,
    **named: SupportsFloat,
) -> None:
    """Adds a line of metrics, which is also the task's sign of life.

        drover.log(step=120, epoch=1.5, loss=0.31)
        drover.log(120, {"val/accuracy": 0.97})

    The line is with the operating system when log returns, whole, so that it
    outlives the process. A value that is not finite has no place in JSON: it
    is left out, and a note says so once. So a gate sees a metric that has
    become NaN as missing, never as good. May be called from any thread.
    """
    values: Dict[str, float] = {}
    for name, value in {**(metrics or {}), **named}.items():
        number = _number(name, value)
        if math.isfinite(number):
            values[name] = number
        else:
            note_once(f"metric {name!r} became {number}: values that are not finite are left out")
    line: Dict[str, Any] = {"step": int(step)}
    if epoch is not None and math.isfinite(epoch):
        line["epoch"] = float(epoch)
    line["time"] = time.time()
    line["metrics"] = values
    _append(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")


def _number(name: str, value: SupportsFloat) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError(f"metric {name!r} is {value!r}, not a number")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"metric {name!r} is {value!r}, not a number") from None


def _append(line: bytes) -> None:
    global _open
    path = place("DROVER_METRICS_FILE", "metrics.jsonl")
    with _lock:
        if _open is None or _open[0] != path:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _open is not None:
                os.close(_open[1])
            _open = (path, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        # One write for the line: processes that share the file do not mix
        # theirs. Only a full disk makes it short.
        while line:
            line = line[os.write(_open[1], line) :]
