import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import threading
import unittest
from typing import Any, Dict, Optional, Tuple
from unittest import mock

import drover

from case import TaskCase

INPUT = drover.Tensor("x", "FP32", (-1, 2))
OUTPUTS = (drover.Tensor("sum", "FP64", (-1,)), drover.Tensor("count", "INT64", (1,)))


def add(inputs: Dict[str, Any]) -> Dict[str, Any]:
    rows = inputs["x"]
    if rows and rows[0][0] == -1:
        raise RuntimeError("secret detail")
    if rows and rows[0][0] == -2:
        raise drover.BadInput("no -2, please")
    return {"sum": [a + b for a, b in rows], "count": [len(rows)]}


class Serving(TaskCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = drover.Server(model="adder", inputs=[INPUT], outputs=OUTPUTS, port=0, max_body_bytes=10_000)
        self.server.start()
        self.addCleanup(self.server.stop, 0.0)
        self.connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=30)
        self.addCleanup(self.connection.close)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Tuple[int, Any]:
        raw = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        self.connection.request(method, path, raw, headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def infer(self, **changes: Any) -> Tuple[int, Any]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4], **changes}
        return self.ask("POST", "/v2/models/adder/infer", {"id": "q", "inputs": [tensor]})

    def test_live_before_and_ready_after_loading(self) -> None:
        self.assertEqual(self.ask("GET", "/v2/health/live")[0], 200)
        for path in ("/v2/health/ready", "/v2/models/adder/ready", "/v2/models/adder/versions/1/ready"):
            self.assertEqual(self.ask("GET", path)[0], 503, path)
        self.assertEqual(self.infer()[0], 503)
        self.server.ready(add)
        for path in ("/v2/health/ready", "/v2/models/adder/ready", "/v2/models/adder/versions/1/ready"):
            self.assertEqual(self.ask("GET", path)[0], 200, path)

    def test_metadata(self) -> None:
        self.assertEqual(self.ask("GET", "/v2")[1]["name"], "drover")
        status, model = self.ask("GET", "/v2/models/adder")
        self.assertEqual((status, model["name"], model["versions"]), (200, "adder", ["1"]))
        self.assertEqual(model["inputs"], [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}])

    def test_infer(self) -> None:
        self.server.ready(add)
        want = {
            "model_name": "adder",
            "model_version": "1",
            "id": "q",
            "outputs": [
                {"name": "sum", "datatype": "FP64", "shape": [2], "data": [3, 7]},
                {"name": "count", "datatype": "INT64", "shape": [1], "data": [2]},
            ],
        }
        self.assertEqual(self.infer(), (200, want))
        self.assertEqual(self.infer(data=[[1, 2], [3, 4]]), (200, want))
        request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], "outputs": [{"name": "sum"}]}
        status, answer = self.ask("POST", "/v2/models/adder/versions/1/infer", request)
        self.assertEqual((status, [o["name"] for o in answer["outputs"]]), (200, ["sum"]))

    def test_plain(self) -> None:
        self.server.ready(add)
        self.assertEqual(self.ask("POST", "/predict", {"x": [[1, 2.5]]}), (200, {"sum": [3.5], "count": [1]}))

    def test_chunked_body_and_the_connection_stays(self) -> None:
        self.server.ready(add)
        before: Optional[socket.socket] = None
        for _ in range(3):
            self.connection.request("POST", "/predict", iter([b'{"x":', b"[[1,2]]}"]), encode_chunked=True)
            self.assertEqual(json.loads(self.connection.getresponse().read())["sum"], [3])
            self.assertIs(before or self.connection.sock, self.connection.sock)
            before = self.connection.sock

    def test_requests_at_fault(self) -> None:
        self.server.ready(add)
        for name, got, want in (
            ("shape and data differ", self.infer(data=[1, 2, 3]), "has 3 values"),
            ("wrong shape", self.infer(shape=[4], data=[1, 2, 3, 4]), r"has shape \[4\]; want \[-1, 2\]"),
            ("wrong datatype", self.infer(datatype="INT8"), "want FP32"),
            ("wrong name", self.infer(name="y"), "missing: x; unknown: y"),
            ("text", self.infer(data=[1, 2, 3, "4"]), "which is not FP32"),
            ("ragged", self.infer(data=[[1, 2], [3]]), "rectangular"),
            ("negative shape", self.infer(shape=[-1, 2]), "no valid shape"),
            ("not JSON", self.ask("POST", "/predict", "{"), "not JSON"),
            ("NaN", self.ask("POST", "/predict", '{"x": [[NaN, 1]]}'), "NaN is not JSON"),
            ("deep", self.ask("POST", "/predict", "[" * 5000), "not JSON|object"),
            ("a list", self.ask("POST", "/predict", []), "object of inputs"),
            ("unknown output", self.ask("POST", "/v2/models/adder/infer", {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], "outputs": [{"name": "z"}]}), "no output 'z'"),
            ("the model's word", self.ask("POST", "/predict", {"x": [[-2, 0]]}), "no -2, please"),
        ):
            with self.subTest(name):
                self.assertEqual(got[0], 400, got)
                self.assertRegex(got[1]["error"], want)

    def test_other_answers(self) -> None:
        self.server.ready(add)
        for name, got, want in (
            ("unknown model", self.ask("POST", "/v2/models/other/infer", {}), 404),
            ("method", self.ask("GET", "/predict"), 405),
            ("too large", self.ask("POST", "/predict", b" " * 10_001), 413),
            ("binary", self.ask("POST", "/predict", b"x", **{"Inference-Header-Content-Length": "1"}), 400),
        ):
            with self.subTest(name):
                self.assertEqual(got[0], want, got)

    def test_a_model_that_fails_says_so_without_detail(self) -> None:
        self.server.ready(add)
        with contextlib.redirect_stderr(io.StringIO()) as log:
            status, answer = self.ask("POST", "/predict", {"x": [[-1, 0]]})
        self.assertEqual(status, 500)
        self.assertNotIn("secret", answer["error"])
        self.assertIn("secret", log.getvalue())

    def test_stop_waits_for_requests(self) -> None:
        entered, leave = threading.Event(), threading.Event()

        def slow(inputs: Dict[str, Any]) -> Dict[str, Any]:
            entered.set()
            leave.wait(30)
            return add(inputs)

        self.server.ready(slow)
        got: "list[Any]" = []
        asking = threading.Thread(target=lambda: got.append(self.ask("POST", "/predict", {"x": [[1, 2]]})))
        asking.start()
        self.assertTrue(entered.wait(30))
        self.assertEqual(self.server.stop(0.01), 1)
        leave.set()
        self.assertEqual(self.server.stop(30), 0)
        asking.join(30)
        self.assertEqual(got, [(200, {"sum": [3], "count": [1]})])


class Process(TaskCase):
    def test_serve_takes_its_port_from_nomad_and_drains_on_sigterm(self) -> None:
        code = (
            "import drover\n"
            "spec = drover.Tensor('x', 'FP32', (-1,))\n"
            "drover.serve(lambda: lambda inputs: inputs, model='echo', inputs=[spec], outputs=[spec], linger=0)\n"
            "print('drained')\n"
        )
        process = self.start(code, {"NOMAD_PORT_http": "0", "NOMAD_IP_http": "127.0.0.1"})
        assert process.stderr is not None
        process.stderr.readline()
        ready = re.search(r"ready at http://(\S+)", process.stderr.readline())
        assert ready is not None
        connection = http.client.HTTPConnection(ready.group(1), timeout=30)
        connection.request("POST", "/predict", '{"x": [1]}')
        self.assertEqual(json.loads(connection.getresponse().read()), {"x": [1]})
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        self.assertEqual((process.returncode, out), (0, "drained\n"), err)
        connection.close()

    def test_a_signal_while_loading_ends_it_at_once(self) -> None:
        code = (
            "import drover, threading\n"
            "def load():\n"
            "    print('loading')\n"
            "    threading.Event().wait()\n"
            "drover.serve(load, model='never', inputs=[], outputs=[], port=0)\n"
        )
        process = self.start(code, {})
        assert process.stdout is not None
        self.assertEqual(process.stdout.readline(), "loading\n")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, drover.STOPPED)

    def test_a_bad_port_is_said(self) -> None:
        with mock.patch.dict(os.environ, {"NOMAD_PORT_http": "http"}), self.assertRaisesRegex(drover.DroverError, "not a port"):
            drover.Server(model="m", inputs=[], outputs=[])


class Tensors(unittest.TestCase):
    def test_values_by_datatype(self) -> None:
        for datatype, good, bad in (
            ("BOOL", True, 1),
            ("INT8", -128, 128),
            ("UINT8", 255, -1),
            ("INT64", 2**63 - 1, 2**63),
            ("INT32", 1, True),
            ("INT32", 1, 1.0),
            ("FP32", 1, True),
            ("FP32", 0.5, float("inf")),
            ("BYTES", "x", 1),
        ):
            with self.subTest(datatype=datatype, bad=bad):
                spec = drover.Tensor("t", datatype, (1,))
                spec.check([good])
                with self.assertRaises(drover.BadInput):
                    spec.check([bad])
        with self.assertRaises(ValueError):
            drover.Tensor("t", "FLOAT", (1,))


if __name__ == "__main__":
    unittest.main()
