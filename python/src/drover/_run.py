"""Who the task is, and where it keeps things."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Set

OUTSIDE = Path("drover-out")


class DroverError(Exception):
    """The task asked for something that it was not given."""


@dataclass(frozen=True)
class RunInfo:
    """Who the task is. Outside Drover, run and step are empty."""

    run: str
    step: str
    attempt: int  # counts from 1; 0 outside Drover
    seed: int  # 0 if the pipeline sets none
    rank: int  # of this process in distributed training; 0 if it is not
    world_size: int  # processes in distributed training; 1 if it is not
    inside: bool  # whether the task runs under Drover


def run_info() -> RunInfo:
    """Reads who the task is from its environment."""
    return RunInfo(
        run=os.environ.get("DROVER_RUN", ""),
        step=os.environ.get("DROVER_STEP", ""),
        attempt=_int("DROVER_ATTEMPT", 0),
        seed=_int("DROVER_SEED", 0),
        rank=_int("RANK", 0),
        world_size=_int("WORLD_SIZE", 1),
        inside="DROVER_OUTPUT_DIR" in os.environ,
    )


def _int(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise DroverError(f"{name}={text!r} is not a whole number") from None


def place(variable: str, name: str) -> Path:
    """The path that a variable gives, or name in ./drover-out without it."""
    given = os.environ.get(variable)
    if given:
        return Path(given)
    note_once("running outside Drover: outputs, checkpoints and metrics go to " + str(OUTSIDE.absolute()))
    return OUTSIDE / name


_noted: Set[str] = set()


def note_once(text: str) -> None:
    """Says something on standard error, the first time only."""
    if text not in _noted:
        _noted.add(text)
        print("drover: " + text, file=sys.stderr, flush=True)


def plain_name(kind: str, name: str) -> str:
    """Refuses a name that would lead out of its folder."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise DroverError(f"{name!r} is not a name of an {kind}")
    return name
