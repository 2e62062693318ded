"""Inputs and outputs."""

import os
from pathlib import Path

from ._run import OUTSIDE, DroverError, place, plain_name


def input(name: str) -> Path:
    """The file or folder of an input, which must only be read.

    Outside Drover it is looked for in $DROVER_INPUT_DIR, else in ./drover-in,
    else among the outputs of scripts that ran before, in ./drover-out/outputs.
    """
    plain_name("input", name)
    given = os.environ.get("DROVER_INPUT_DIR")
    folders = [Path(given)] if given else [Path("drover-in"), OUTSIDE / "outputs"]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    have = sorted({p.name for folder in folders if folder.is_dir() for p in folder.iterdir()})
    where = " or ".join(str(folder) for folder in folders)
    raise DroverError(f"there is no input {name!r} in {where}; there is: {', '.join(have) or 'nothing'}")


def output(name: str) -> Path:
    """Where to write an output: make a file or a folder of this path.

    It is stored when the task succeeds, and only then.
    """
    plain_name("output", name)
    folder = place("DROVER_OUTPUT_DIR", "outputs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name
