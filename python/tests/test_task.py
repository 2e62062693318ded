import contextlib
import io
import json
import os
import signal
import threading
import unittest
from pathlib import Path
from typing import Any, Tuple
from unittest import mock

import drover
from drover import _run

from case import TaskCase


class Files(TaskCase):
    def test_inputs_and_outputs_are_where_the_driver_says(self) -> None:
        with mock.patch.dict(os.environ, self.inside()):
            (self.folder / "inputs/train").write_text("x")
            self.assertEqual(drover.input("train"), self.folder / "inputs/train")
            self.assertEqual(drover.output("model"), self.folder / "outputs/model")

    def test_a_missing_input_says_what_there_is(self) -> None:
        with mock.patch.dict(os.environ, self.inside()):
            (self.folder / "inputs/train").write_text("x")
            with self.assertRaisesRegex(drover.DroverError, "'trian'.*there is: train"):
                drover.input("trian")

    def test_names_do_not_lead_elsewhere(self) -> None:
        for name in ("", ".", "..", "../x", "/etc/hosts", "a/b", "a\0"):
            for function in (drover.input, drover.output):
                with self.subTest(name=name), self.assertRaises(drover.DroverError):
                    function(name)

    def test_outside_drover_scripts_chain(self) -> None:
        _run._noted.clear()
        with contextlib.redirect_stderr(io.StringIO()) as said:
            drover.output("features").write_text("x")
            drover.output("more").write_text("x")
        self.assertEqual(drover.input("features").read_text(), "x")
        self.assertEqual(said.getvalue().count("running outside Drover"), 1)
        Path("drover-in").mkdir()
        Path("drover-in/features").write_text("first")
        self.assertEqual(drover.input("features").read_text(), "first")


class Params(TaskCase):
    def setUp(self) -> None:
        super().setUp()
        env = mock.patch.dict(os.environ, self.inside())
        env.start()
        self.addCleanup(env.stop)
        given = {"lr": 0.1, "epochs": 3, "whole": 3.0, "name": "a", "fast": True, "deep": {"x": 1}, "none": None}
        (self.folder / "params.json").write_text(json.dumps(given))

    def test_typed_by_default_or_type(self) -> None:
        cases: Tuple[Tuple[str, Any, Any], ...] = (
            ("lr", 1.0, 0.1),
            ("epochs", 1, 3),
            ("epochs", 1.0, 3.0),
            ("whole", 1, 3),
            ("name", "b", "a"),
            ("fast", False, True),
            ("absent", 7, 7),
            ("none", 7, 7),
        )
        for name, default, want in cases:
            with self.subTest(name=name, default=default):
                got = drover.param(name, default)
                self.assertEqual((got, type(got)), (want, type(want)))
        self.assertEqual(drover.param("lr", type=float), 0.1)
        self.assertEqual(drover.params()["deep"], {"x": 1})

    def test_wrong_types_are_errors(self) -> None:
        cases: Tuple[Tuple[str, Any], ...] = (
            ("lr", 1),
            ("name", 1.0),
            ("fast", 1),
            ("epochs", True),
            ("epochs", "x"),
            ("deep", "x"),
        )
        for name, default in cases:
            with self.subTest(name=name, default=default), self.assertRaisesRegex(drover.DroverError, name):
                drover.param(name, default)
        with self.assertRaisesRegex(drover.DroverError, "given are: deep, epochs"):
            drover.param("absent", type=int)

    def test_variables_serve_runs_by_hand(self) -> None:
        with mock.patch.dict(os.environ, {"DROVER_PARAM_BATCH_SIZE": "32", "DROVER_PARAM_LR": "9", "DROVER_PARAM_X": "y"}):
            self.assertEqual(drover.param("batch-size", 1), 32)
            self.assertEqual(drover.param("lr", 1.0), 0.1, "the pipeline's value wins")
            self.assertEqual(drover.param("x", ""), "y")
            with self.assertRaises(drover.DroverError):
                drover.param("x", 1)


class Log(TaskCase):
    def lines(self) -> "list[dict[str, object]]":
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def test_lines(self) -> None:
        with mock.patch.dict(os.environ, self.inside()):
            drover.log(step=120, epoch=1.5, loss=0.25)
            drover.log(121, {"val/accuracy": 1})
        first, second = self.lines()
        self.assertIsInstance(first.pop("time"), float)
        self.assertEqual(first, {"step": 120, "epoch": 1.5, "metrics": {"loss": 0.25}})
        self.assertEqual(second["metrics"], {"val/accuracy": 1.0})

    def test_values_that_are_not_finite_are_left_out_and_said(self) -> None:
        _run._noted.clear()
        with mock.patch.dict(os.environ, self.inside()), contextlib.redirect_stderr(io.StringIO()) as said:
            for step in range(3):
                drover.log(step, loss=float("nan"), top=float("inf"), ok=1)
        self.assertEqual([line["metrics"] for line in self.lines()], [{"ok": 1.0}] * 3)
        self.assertEqual(said.getvalue().count("'loss'"), 1)
        with self.assertRaises(TypeError):
            drover.log(1, loss="low")  # type: ignore[arg-type]

    def test_threads_do_not_mix_lines(self) -> None:
        with mock.patch.dict(os.environ, self.inside()):

            def some() -> None:
                for i in range(200):
                    drover.log(i, x=i)

            threads = [threading.Thread(target=some) for _ in range(4)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertEqual(len(self.lines()), 800)


class Checkpoints(TaskCase):
    def test_written_whole_under_its_final_name(self) -> None:
        code = (
            "import drover\n"
            "def save(folder):\n"
            "    (folder / 'sub').mkdir(); (folder / 'sub/w').write_text('weights')\n"
            "drover.checkpoint(7, save)\n"
            "drover.checkpoint(7, lambda folder: 1 / 0)  # a step is written once\n"
        )
        process = self.start(code)
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual((self.folder / "checkpoints/step-7/sub/w").read_text(), "weights")
        self.assertEqual(os.listdir(self.folder / "checkpoints"), ["step-7"])

    def test_a_save_that_fails_leaves_no_checkpoint(self) -> None:
        code = "import drover\ndef save(folder):\n    (folder / 'w').write_text('half')\n    1 / 0\ndrover.checkpoint(8, save)"
        process = self.start(code)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(os.listdir(self.folder / "checkpoints"), ["step-8.tmp"])
        again = self.start("import drover\ndrover.checkpoint(8, lambda f: (f / 'v').write_text('x'))")
        again.communicate(timeout=30)
        self.assertEqual(os.listdir(self.folder / "checkpoints/step-8"), ["v"])

    def test_resume(self) -> None:
        (self.folder / "step-40").mkdir()
        with mock.patch.dict(os.environ, {"DROVER_RESUME_FROM": str(self.folder / "step-40")}):
            found = drover.resume()
            assert found is not None
            self.assertEqual(found, (40, self.folder / "step-40"))
        self.assertIsNone(drover.resume())
        for wrong in (str(self.folder / "step-41"), str(self.folder), "x"):
            with mock.patch.dict(os.environ, {"DROVER_RESUME_FROM": wrong}), self.assertRaises(drover.DroverError):
                drover.resume()

    LOOP = (
        "import drover\n"
        "drover.should_stop()\n"
        "print('ready')\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    if drover.should_checkpoint():\n"
        "        print(drover.checkpoint(step, lambda f: (f / 'w').write_text('x')).name)\n"
    )

    def test_sigterm_writes_a_checkpoint_and_exits_143(self) -> None:
        process = self.start(self.LOOP)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, drover.STOPPED)
        self.assertEqual(len(list((self.folder / "checkpoints").glob("step-*/w"))), 1)

    def test_sigusr1_writes_a_checkpoint_and_goes_on(self) -> None:
        process = self.start(self.LOOP)
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "ready\n")
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            self.assertRegex(process.stdout.readline(), r"^step-\d+\n$")
        self.assertIsNone(process.poll())

    def test_killed_at_any_moment_it_leaves_only_whole_checkpoints(self) -> None:
        code = (
            "import drover, itertools\n"
            "def save(folder):\n"
            "    for i in range(5): (folder / str(i)).write_text('x' * 100000)\n"
            "for step in itertools.count():\n"
            "    drover.checkpoint(step, save)\n"
            "    print(step, flush=True)\n"
        )
        for round in range(10):
            with self.subTest(round=round):
                env = {**self.inside(), "DROVER_CHECKPOINT_DIR": str(self.folder / f"c{round}")}
                process = self.start(code, env)
                assert process.stdout is not None
                process.stdout.readline()
                timer = threading.Timer(0.003 * round, process.kill)
                timer.start()
                out, _ = process.communicate(timeout=30)
                steps = [p for p in (self.folder / f"c{round}").iterdir() if not p.name.endswith(".tmp")]
                self.assertGreaterEqual(len(steps), len(out.split()))
                for step in steps:
                    self.assertEqual([f.stat().st_size for f in sorted(step.iterdir())], [100000] * 5)


class Info(TaskCase):
    def test_run_info(self) -> None:
        self.assertFalse(drover.run_info().inside)
        env = {**self.inside(), "DROVER_RUN": "r1", "DROVER_STEP": "train", "DROVER_ATTEMPT": "2", "DROVER_SEED": "7", "RANK": "3"}
        with mock.patch.dict(os.environ, env):
            self.assertEqual(drover.run_info(), drover.RunInfo("r1", "train", 2, 7, 3, 1, True))
        with mock.patch.dict(os.environ, {"DROVER_SEED": "x"}), self.assertRaises(drover.DroverError):
            drover.run_info()


if __name__ == "__main__":
    unittest.main()
