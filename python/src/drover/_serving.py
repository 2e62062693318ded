"""A small HTTP server for a model, which speaks the Open Inference Protocol v2.

    GET  /v2                        the server
    GET  /v2/health/live            200 while the process runs
    GET  /v2/health/ready           200 once the model is loaded, else 503
    GET  /v2/models/M[/versions/V]  the model's inputs and outputs
    GET  /v2/models/M/ready         as /v2/health/ready
    POST /v2/models/M/infer         prediction, as tensors
    POST /predict                   prediction, as plain JSON by tensor name
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

from ._run import DroverError
from ._stop import Stopped
from ._tensors import BadInput, Tensor, check_all, decode, encode

Predict = Callable[[Dict[str, Any]], Mapping[str, Any]]

_IDLE_S = 75.0  # how long a connection may be silent


def serve(
    load: Callable[[], Predict],
    *,
    model: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    version: Optional[str] = None,
    host: Optional[str] = None,
    port: Optional[int] = None,
    concurrency: int = 1,
    max_body_bytes: int = 16 << 20,
    linger: float = 0.5,
    drain: float = 20.0,
) -> None:
    """Serves a model until SIGTERM or SIGINT, then drains and returns.

    load loads the model and returns the function that predicts: it takes and
    returns nested lists by tensor name. The server is live before the model is
    loaded, and ready after. The function is called by at most concurrency
    threads at once. For a request that is at fault it raises BadInput.

    The version is DROVER_MODEL_VERSION, else "1", and is only told.

    The port is NOMAD_PORT_http or DROVER_PORT, else 8080; 0 takes a free one.
    The host is NOMAD_IP_http, else 127.0.0.1.

    On SIGTERM the server says that it is not ready, takes requests for linger
    seconds more, as those who send them need time to notice, and then waits up
    to drain seconds for those it has. A second signal, or one while the model
    is being loaded, ends it at once with status 143.
    """
    server = Server(
        model=model,
        inputs=inputs,
        outputs=outputs,
        version=version or os.environ.get("DROVER_MODEL_VERSION") or "1",
        host=host,
        port=port,
        concurrency=concurrency,
        max_body_bytes=max_body_bytes,
    )
    stop = threading.Event()

    def on_signal(_signum: int, _frame: Optional[FrameType]) -> None:
        if stop.is_set() or not server.is_ready:
            raise Stopped  # nothing to drain yet, or not to be waited for any longer
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, on_signal)
    server.start()
    try:
        print(f"drover: loading model {model!r}; live at {server.url}", file=sys.stderr, flush=True)
        server.ready(load())
        print(f"drover: model {model!r} is ready at {server.url}", file=sys.stderr, flush=True)
        stop.wait()
        server.unready()
        time.sleep(linger)
    except Stopped:
        drain = 0.0
        raise
    finally:
        left = server.stop(drain)
        if left:
            print(f"drover: {left} requests were still unanswered after {drain} s", file=sys.stderr, flush=True)


class Server:
    """The server that serve runs, for those who need it in pieces."""

    def __init__(
        self,
        *,
        model: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        version: str = "1",
        host: Optional[str] = None,
        port: Optional[int] = None,
        concurrency: int = 1,
        max_body_bytes: int = 16 << 20,
    ) -> None:
        self.model, self.version = model, version
        self.inputs = {t.name: t for t in inputs}
        self.outputs = {t.name: t for t in outputs}
        self.max_body_bytes = max_body_bytes
        self._predict: Optional[Predict] = None
        self._slots = threading.BoundedSemaphore(concurrency)
        self._idle = threading.Condition()
        self._in_flight = 0
        self.draining = False
        self._http = _HTTPServer((host or os.environ.get("NOMAD_IP_http") or "127.0.0.1", _port(port)), _Handler)
        self._http.model_server = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def is_ready(self) -> bool:
        return self._predict is not None and not self.draining

    def start(self) -> None:
        """Begins to answer; not ready yet."""
        self._thread.start()

    def ready(self, predict: Predict) -> None:
        """Begins to predict."""
        self._predict = predict

    def unready(self) -> None:
        """Says that it is not ready, but goes on answering."""
        self.draining = True

    def stop(self, drain: float = 20.0) -> int:
        """Takes no more requests and waits up to drain seconds for those it
        has. Returns how many it left unanswered."""
        self.draining = True
        if self._thread.is_alive():
            self._http.shutdown()
        self._http.server_close()
        with self._idle:
            self._idle.wait_for(lambda: self._in_flight == 0, timeout=drain)
            return self._in_flight

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Holds up stop for a request, until its answer is sent."""
        with self._idle:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_flight -= 1
                self._idle.notify_all()

    def answer(self, method: str, path: str, body: Callable[[], bytes]) -> "Answer":
        """Answers one request; what goes wrong becomes an answer, too."""
        try:
            return self._route(method, path.partition("?")[0].rstrip("/"), body)
        except HTTPError as e:
            return Answer(e.status, {"error": str(e)})
        except BadInput as e:
            return Answer(400, {"error": str(e)})
        except OSError:
            raise  # the client is gone
        except Exception as e:
            traceback.print_exc()
            return Answer(500, {"error": f"the model raised {type(e).__name__}; its log says more"})

    def _route(self, method: str, path: str, body: Callable[[], bytes]) -> "Answer":
        base = "/v2/models/" + self.model
        versioned = f"{base}/versions/{self.version}"
        if path == versioned or path.startswith(versioned + "/"):
            path = base + path[len(versioned) :]
        gets: Dict[str, Callable[[], Answer]] = {
            "/v2": lambda: Answer(200, {"name": "drover", "version": self.version, "extensions": []}),
            "/v2/health/live": lambda: Answer(200, {"live": True}),
            "/v2/health/ready": self._readiness,
            base: lambda: Answer(200, self._metadata()),
            base + "/ready": self._readiness,
        }
        posts: Dict[str, Callable[[Any], Any]] = {base + "/infer": self._infer, "/predict": self._plain}
        if method == "GET" and path in gets:
            return gets[path]()
        if method == "POST" and path in posts:
            raw = body()
            return Answer(200, posts[path](_parse(raw)))
        if path in gets or path in posts:
            raise HTTPError(405, f"{method} is not for {path}")
        raise HTTPError(404, f"there is nothing at {path[:200]}; this server has the model {self.model!r}")

    def _readiness(self) -> "Answer":
        return Answer(200 if self.is_ready else 503, {"name": self.model, "ready": self.is_ready})

    def _metadata(self) -> Dict[str, Any]:
        return {
            "name": self.model,
            "versions": [self.version],
            "platform": "drover-python",
            "inputs": [t.metadata() for t in self.inputs.values()],
            "outputs": [t.metadata() for t in self.outputs.values()],
        }

    def _infer(self, request: Any) -> Dict[str, Any]:
        values = self._call(decode(request, self.inputs))
        answer: Dict[str, Any] = {"model_name": self.model, "model_version": self.version}
        if isinstance(request.get("id"), str):
            answer["id"] = request["id"]
        answer["outputs"] = encode(values, self.outputs, request.get("outputs"))
        return answer

    def _plain(self, request: Any) -> Mapping[str, Any]:
        return self._call(check_all(request, self.inputs))

    def _call(self, values: Dict[str, Any]) -> Mapping[str, Any]:
        if self._predict is None:
            raise HTTPError(503, f"the model {self.model!r} is being loaded")
        with self._slots:
            result = self._predict(values)
        for name, spec in self.outputs.items():
            try:
                spec.check(result[name])
            except (BadInput, KeyError) as e:
                raise RuntimeError(f"the model's output is not as declared: {e}") from e
        return {name: result[name] for name in self.outputs}


class Answer(NamedTuple):
    status: int
    body: Mapping[str, Any]


class HTTPError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _parse(raw: bytes) -> Any:
    def refuse(text: str) -> Any:
        raise BadInput(f"{text} is not JSON")

    try:
        return json.loads(raw, parse_constant=refuse)
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError) as e:
        raise BadInput(f"the body is not JSON: {e}") from e


def _port(given: Optional[int]) -> int:
    if given is not None:
        return given
    for name in ("NOMAD_PORT_http", "DROVER_PORT"):
        text = os.environ.get(name, "")
        if text:
            if not text.isdecimal() or int(text) > 65535:
                raise DroverError(f"{name}={text!r} is not a port")
            return int(text)
    return 8080


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # Server.stop waits for requests, not for idle connections
    request_queue_size = 128
    model_server: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "drover"
    sys_version = ""
    timeout = _IDLE_S
    wbufsize = -1  # head and body leave in one packet
    disable_nagle_algorithm = True
    server: _HTTPServer

    def do_GET(self) -> None:
        with self.server.model_server.counted():
            self._answer("GET")

    def do_POST(self) -> None:
        with self.server.model_server.counted():
            self._answer("POST")

    def _answer(self, method: str) -> None:
        self._unread = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        answer = self.server.model_server.answer(method, self.path, self._body)
        data = json.dumps(answer.body, separators=(",", ":"), allow_nan=False).encode()
        # A body left unread would be taken for the next request.
        if self._unread or self.server.model_server.draining:
            self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if answer.status == 503:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _body(self) -> bytes:
        limit = self.server.model_server.max_body_bytes
        if "Inference-Header-Content-Length" in self.headers:
            raise HTTPError(400, "binary tensors are not supported: send their data as JSON")
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.flush()
        coding = self.headers.get("Transfer-Encoding", "").lower()
        if coding == "chunked":
            raw = self._chunks(limit)
        elif coding:
            raise HTTPError(501, f"transfer encoding {coding[:40]!r} is not supported")
        else:
            raw = self._sized(limit)
        self._unread = False
        return raw

    def _sized(self, limit: int) -> bytes:
        text = self.headers.get("Content-Length")
        if text is None:
            raise HTTPError(411, "the request has no Content-Length")
        if not text.isdecimal():
            raise HTTPError(400, "Content-Length is not a number")
        if int(text) > limit:
            raise HTTPError(413, f"the body exceeds {limit} bytes")
        return self._read(int(text))

    def _chunks(self, limit: int) -> bytes:
        body = bytearray()
        while True:
            head = self.rfile.readline(1024).partition(b";")[0].strip()
            try:
                size = int(head, 16)
            except ValueError:
                raise HTTPError(400, "the body's chunks are malformed") from None
            if size < 0 or len(body) + size > limit:
                raise HTTPError(413, f"the body exceeds {limit} bytes")
            if size == 0:
                break
            body += self._read(size)
            self.rfile.readline(1024)
        while self.rfile.readline(1024).strip():  # trailers
            pass
        return bytes(body)

    def _read(self, size: int) -> bytes:
        raw = self.rfile.read(size)
        if len(raw) < size:
            raise ConnectionResetError("the client went away in the middle of its request")
        return raw

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the gateway counts requests
