"""Finds the drover package, which these scripts need and do not install.

It is on the path already, or an input named "drover" holds it, or this is a
checkout of the project and the scripts are run by hand.
"""

import os
import sys
from pathlib import Path

try:
    import drover
except ModuleNotFoundError:
    _places = [Path(__file__).resolve().parents[3] / "python" / "src"]
    if "DROVER_INPUT_DIR" in os.environ:
        _places.insert(0, Path(os.environ["DROVER_INPUT_DIR"]) / "drover")
    sys.path += [str(p) for p in _places if (p / "drover").is_dir()]
    import drover

__all__ = ["drover"]
