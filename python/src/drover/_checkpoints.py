"""Checkpoints."""

import os
import re
import shutil
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Set

from ._run import DroverError, note_once, place
from ._stop import Stopped, asked


class Checkpoint(NamedTuple):
    """A checkpoint to resume from."""

    step: int
    path: Path  # the folder that was given to save, or a file


_written: Set[Path] = set()  # by this process


def checkpoint(step: int, save: Callable[[Path], object], *, exit_on_stop: bool = True) -> Path:
    """Writes a checkpoint: save is called with an empty folder to fill.

    When checkpoint returns, the folder is on disk under its final name,
    step-<step>, whole. A death at any moment before leaves no checkpoint of
    this step, and the ones before it as they were. A step is written once: a
    second call for the same step does nothing.

    If SIGTERM came, checkpoint then ends the process with status 143 (see
    Stopped), unless exit_on_stop is False.
    """
    asked.install()
    if step < 0:
        raise DroverError(f"checkpoint step {step} is negative")
    folder = place("DROVER_CHECKPOINT_DIR", "checkpoints")
    final = folder / f"step-{step}"
    # Cleared before the state is written: a signal that comes meanwhile asks
    # for the state after this one.
    asked.checkpoint = False
    if final not in _written:
        _write(folder, final, save)
        _written.add(final)
    if exit_on_stop and asked.stop:
        raise Stopped
    return final


def _write(folder: Path, final: Path, save: Callable[[Path], object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if final.exists() and "DROVER_CHECKPOINT_DIR" in os.environ:
        return  # of this very run, and perhaps sealed by now
    temp = final.with_name(final.name + ".tmp")
    _remove(temp)
    temp.mkdir()
    save(temp)
    _sync_tree(temp)
    if final.exists():
        note_once(f"replacing checkpoints of an earlier run in {folder}")
        _remove(final)
    os.rename(temp, final)
    _sync(folder)


def resume() -> Optional[Checkpoint]:
    """The checkpoint to continue from, or None for a start from the beginning.

    Drover has verified it. Outside Drover nobody has, so none is looked for:
    name one in DROVER_RESUME_FROM.
    """
    asked.install()
    path = os.environ.get("DROVER_RESUME_FROM")
    if not path:
        return None
    name = re.fullmatch(r"step-(\d+)", Path(path).name)
    if name is None:
        raise DroverError(f"DROVER_RESUME_FROM={path!r} does not end in step-<number>")
    if not Path(path).exists():
        raise DroverError(f"DROVER_RESUME_FROM={path!r} does not exist")
    return Checkpoint(int(name.group(1)), Path(path))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def _sync_tree(top: Path) -> None:
    for folder, _, files in os.walk(top):
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                _sync(path)
        _sync(Path(folder))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
