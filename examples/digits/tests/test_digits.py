"""Runs the scripts as Drover does: a process each, told where things are."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, Optional

EXAMPLE = Path(__file__).resolve().parents[1]
DRIVER_PARAMS = {"epochs": 4, "hidden": 8}


class Step:
    """One step's folder, and its process."""

    def __init__(self, folder: Path, script: str, inputs: Dict[str, Path], params: Optional[Dict[str, Any]] = None, **env: str):
        self.folder = folder
        for name in ("inputs", "outputs", "checkpoints"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(EXAMPLE / "src", folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
        inputs = {**inputs, "drover": EXAMPLE.parents[1] / "python" / "src"}
        for name, path in inputs.items():
            (folder / "inputs" / name).symlink_to(path)
        (folder / "params.json").write_text(json.dumps(params or {}))
        self.process = subprocess.Popen(
            [sys.executable, f"{script}.py"],
            cwd=folder / "code",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "DROVER_INPUT_DIR": str(folder / "inputs"),
                "DROVER_OUTPUT_DIR": str(folder / "outputs"),
                "DROVER_CHECKPOINT_DIR": str(folder / "checkpoints"),
                "DROVER_METRICS_FILE": str(folder / "metrics.jsonl"),
                "DROVER_PARAMS_FILE": str(folder / "params.json"),
                "PYTHONUNBUFFERED": "1",
                **env,
            },
        )

    def end(self) -> "tuple[int, str, str]":
        """Waits for the process; its status and what it wrote."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err

    def out(self, name: str) -> Path:
        return self.folder / "outputs" / name

    def metrics(self) -> Dict[str, float]:
        last: Dict[str, float] = {}
        for line in (self.folder / "metrics.jsonl").read_text().splitlines():
            last.update(json.loads(line)["metrics"])
        return last


class Digits(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        temp = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temp.cleanup)
        cls.top = Path(temp.name)
        cls.valid = cls.done("validate", {"digits": EXAMPLE / "data/digits.csv.gz"})
        cls.features = cls.done("features", {"clean": cls.valid.out("clean")})
        cls.trained = cls.train("train", DRIVER_PARAMS)
        code, _, err = cls.trained.end()
        assert code == 0, err

    @classmethod
    def done(cls, script: str, inputs: Dict[str, Path]) -> Step:
        step = Step(cls.top / script, script, inputs)
        code, _, err = step.end()
        assert code == 0, err
        return step

    @classmethod
    def train(cls, name: str, params: Dict[str, Any], **env: str) -> Step:
        return Step(cls.top / name, "train", {"features": cls.features.out("features")}, params, **env)

    def accuracy(self, name: str, trained: Step) -> float:
        inputs = {"model": trained.out("model"), "features": self.features.out("features")}
        step = Step(self.top / name, "evaluate", inputs)
        code, _, err = step.end()
        self.assertEqual(code, 0, err)
        report = json.loads((step.out("report") / "report.json").read_text())
        self.assertEqual(sum(map(sum, report["confusion"])), 359)
        self.assertAlmostEqual(report["accuracy"], step.metrics()["accuracy"])
        return report["accuracy"]

    def test_the_data_is_split_without_overlap(self) -> None:
        rows = [(self.features.out("features") / f"{part}.jsonl").read_text().splitlines() for part in ("train", "val", "test")]
        self.assertEqual([len(r) for r in rows], [1079, 359, 359])
        self.assertEqual(len(set().union(*rows)), 1797)
        self.assertEqual(len(self.features.out("holdout").read_text().splitlines()), 359)

    def test_good_parameters_learn_and_bad_ones_do_not(self) -> None:
        good = self.train("good", {})
        bad = self.train("bad", {"lr": 0.0001, "epochs": 1})
        self.assertEqual((good.end()[0], bad.end()[0]), (0, 0))
        self.assertGreaterEqual(self.accuracy("evaluate-good", good), 0.95)
        self.assertLess(self.accuracy("evaluate-bad", bad), 0.6)

    def test_a_killed_training_ends_with_the_same_model(self) -> None:
        for how in (signal.SIGKILL, signal.SIGTERM):
            with self.subTest(how=how.name):
                killed = self.train(f"killed-{how.name}", DRIVER_PARAMS)
                assert killed.process.stdout is not None
                while "epoch 2/" not in killed.process.stdout.readline():
                    self.assertIsNone(killed.process.poll())
                killed.process.send_signal(how)
                code, _, err = killed.end()
                self.assertEqual(code, -9 if how == signal.SIGKILL else 143, err)
                self.assertFalse(killed.out("model").exists())
                steps = (killed.folder / "checkpoints").glob("step-*")
                newest = max((p for p in steps if p.suffix != ".tmp"), key=lambda p: int(p.name[5:]))
                resumed = self.train(f"resumed-{how.name}", DRIVER_PARAMS, DROVER_RESUME_FROM=str(newest))
                code, out, err = resumed.end()
                self.assertEqual(code, 0, err)
                self.assertIn(f"goes on after epoch {newest.name[5:]}", out)
                self.assertEqual(resumed.out("model").read_bytes(), self.trained.out("model").read_bytes())

    def test_bad_data_is_refused_with_reasons(self) -> None:
        good = gzip.decompress((EXAMPLE / "data/digits.csv.gz").read_bytes()).decode().splitlines()
        for name, lines, want in (
            ("short row", ["1,2,3", *good], "line 1: 3 columns"),
            ("bright pixel", [good[0].replace("13", "17", 1), *good], "column 4 is 17"),
            ("text", ["x" + good[0], *good], "'x0', not a whole number"),
            ("label", [good[0][:-1] + "10", *good], "label 10"),
            ("few rows", good[:50], "50 valid rows; want at least 1000"),
            ("no nines", [row for row in good if not row.endswith(",9")], "digit 9 is 0.0%"),
            ("empty", [], "0 valid rows"),
        ):
            with self.subTest(name):
                file = self.top / f"{name}.csv"
                file.write_text("\n".join(lines))
                step = Step(self.top / name, "validate", {"digits": file})
                code, _, err = step.end()
                self.assertEqual(code, 1)
                self.assertIn(want, err)
                self.assertNotIn("Traceback", err)
                self.assertEqual(os.listdir(step.folder / "outputs"), [])

    def test_the_served_model_knows_held_out_digits(self) -> None:
        step = Step(self.top / "serve", "serve", {"model": self.trained.out("model")}, NOMAD_PORT_http="0")
        self.addCleanup(step.end)
        self.addCleanup(step.process.kill)
        assert step.process.stderr is not None
        step.process.stderr.readline()
        ready = re.search(r"ready at (http://\S+)", step.process.stderr.readline())
        assert ready is not None
        check = subprocess.run(
            [sys.executable, EXAMPLE / "src/check.py", ready.group(1), self.features.out("holdout"), "--min-accuracy=0.8"],
            capture_output=True, text=True, timeout=60,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.assertEqual(check.returncode, 0, check.stderr)
        step.process.send_signal(signal.SIGTERM)
        self.assertEqual(step.process.wait(60), 0)


if __name__ == "__main__":
    unittest.main()
