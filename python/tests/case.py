"""What the tests share: a task's surroundings, and tasks as processes."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Dict, Optional
from unittest import mock

SRC = Path(__file__).resolve().parents[1] / "src"


class TaskCase(unittest.TestCase):
    """Each test has an empty folder to work in, and no variables of Drover's."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DROVER_", "NOMAD_"))}
        env = mock.patch.dict(os.environ, clean, clear=True)
        env.start()
        self.addCleanup(env.stop)

    def inside(self) -> Dict[str, str]:
        """The variables that the driver sets."""
        env = {
            "DROVER_INPUT_DIR": str(self.folder / "inputs"),
            "DROVER_OUTPUT_DIR": str(self.folder / "outputs"),
            "DROVER_CHECKPOINT_DIR": str(self.folder / "checkpoints"),
            "DROVER_METRICS_FILE": str(self.folder / "metrics.jsonl"),
            "DROVER_PARAMS_FILE": str(self.folder / "params.json"),
        }
        for name in ("inputs", "outputs", "checkpoints"):
            (self.folder / name).mkdir(exist_ok=True)
        return env

    def start(self, code: str, env: Optional[Dict[str, str]] = None) -> "subprocess.Popen[str]":
        """Runs code as a task of its own. Its output is piped."""
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **(env or self.inside()), "PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process
