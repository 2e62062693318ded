"""What a task needs to run under Drover, with the standard library only.

Under Drover the task's environment says where everything is. Outside it the
same code runs too: outputs, checkpoints and metrics go to ./drover-out, and a
note on standard error says so. See README.md for the whole contract.
"""

from ._checkpoints import Checkpoint, checkpoint, resume
from ._files import input, output
from ._metrics import log
from ._params import param, params
from ._run import DroverError, RunInfo, run_info
from ._serving import Server, serve
from ._stop import STOPPED, Stopped, should_checkpoint, should_stop
from ._tensors import BadInput, Tensor

__version__ = "0.1.0"

__all__ = [
    "BadInput",
    "Checkpoint",
    "DroverError",
    "RunInfo",
    "STOPPED",
    "Server",
    "Stopped",
    "Tensor",
    "checkpoint",
    "input",
    "log",
    "output",
    "param",
    "params",
    "resume",
    "run_info",
    "serve",
    "should_checkpoint",
    "should_stop",
]
