"""The labelling page: one query on one machine, labelled in a browser by keyboard.

`serve` runs an HTTP server of the standard library on 127.0.0.1 around a `Session`. Every address begins with a secret
that is made at each start and printed with the address; requests for another host (DNS rebinding), from another origin
(cross-site requests), of another route or above a few kilobytes are refused. The page is `page.html`, which loads
nothing from elsewhere: its content security policy forbids it.

    GET  /<secret>/            the page
    GET  /<secret>/state       the `State` as JSON
    GET  /<secret>/image/12    the image of pool point 12 of the open query; 204 where it is no image
    POST /<secret>/answer      {"id": any text, "pool_index": 12, "label": 3 or "abstain"}
    POST /<secret>/stop        {}
"""

import hmac
import json
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bdal.errors import ConfigError, LabelError
from bdal.experiment.interrupt import interruptible
from bdal.labelling.exchange import Session, State, as_json, checked, image_type, page
from bdal.store.lock import LockedError

LARGEST = 4096  # bytes of a request's body
COMING = 10.0  # seconds for a whole request to come in
MOST = 32  # connections whose request has not come in yet
REMEMBERED = 1000  # answers, so that one that is sent again is not told again


class LabelServer(ThreadingHTTPServer):
    """The server around one session: `url` to open, `stopping` to wait for."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = os.name != "nt"

    def __init__(self, session: Session, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.session = session
        self.secret = secrets.token_urlsafe(24)
        self.hosts = {f"{host}:{self.server_port}" for host in ("127.0.0.1", "localhost")}
        self.url = f"http://127.0.0.1:{self.server_port}/{self.secret}/"
        self.page, self.policy = page()
        self.stopping = threading.Event()
        self.lock = threading.Lock()  # one call of the session at a time
        self.told: OrderedDict[str, None] = OrderedDict()  # ids of the answers that are kept
        self.active = time.monotonic()  # when a person last did something
        self.failed: Exception | None = None
        self.coming: OrderedDict[socket.socket, float] = OrderedDict()  # connections without their request, since when

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept a connection. If there are too many, close the one that has been silent longest."""
        self.coming[request] = time.monotonic()
        if len(self.coming) > MOST:
            self._hang_up(next(iter(self.coming)))
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close connections whose request is not complete in time."""
        late = time.monotonic() - COMING
        for connection, since in list(self.coming.items()):
            if since < late:
                self._hang_up(connection)

    def has_come(self, connection: socket.socket) -> None:
        """A request was read."""
        self.coming.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        """A connection ends, whatever came of it."""
        self.has_come(request)
        super().shutdown_request(request)

    def _hang_up(self, connection: socket.socket) -> None:
        self.has_come(connection)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and closes it

    def state(self) -> State:
        """The session's state."""
        with self.lock:
            return self.session.state()

    def tell(self, answer: Any) -> None:
        """Check one answer as it came and hand it on; the same id is handed on once. Raises `LabelError`."""
        with self.lock:
            if self.stopping.is_set():
                raise OSError("bdal label has been stopped")
            state = self.session.state()
            identity, pool_index, label = checked(answer, state)
            if identity in self.told:
                return
            if pool_index not in {item.pool_index for item in state.items}:
                raise _NotAskedError(f"pool point {pool_index} is not in the open query")
            self.session.tell(pool_index, label)
            self.told[identity] = None
            while len(self.told) > REMEMBERED:
                self.told.popitem(last=False)

    def stop(self) -> None:
        """End `serve`, once the answer that is being written is on disk."""
        with self.lock:
            self.stopping.set()

    def fail(self, error: Exception) -> None:
        """Have `serve` end with an error."""
        self.failed = error
        self.stop()

    def handle_error(self, request, client_address) -> None:
        """A browser that went away is no error; others print their traceback as ever."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def make_server(session: Session, port: int = 0) -> LabelServer:
    """A server on 127.0.0.1 that is bound and not yet running; port 0 is any free one. Raises `ConfigError`."""
    try:
        return LabelServer(session, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"port: expected a free port, 0 for any, got {port}: {reason}") from error


def serve(
    session: Session,
    *,
    port: int = 0,
    open_browser: bool = True,
    idle_seconds: float = 7200.0,
    announce: Callable[[str], Any] = print,
    folder: str | Path | None = None,
) -> None:
    """Serve the labelling page until Ctrl-C, SIGTERM, the page's stop button or `idle_seconds` without an answer.

    Whatever was answered is kept before this returns. Training does not count as idle.

    Args:
      session: what is labelled.
      port: 0 for any free one.
      open_browser: open the page in this machine's browser, where it has a display.
      idle_seconds: how long nobody may answer.
      announce: is given the lines for the person who started it.
      folder: where a file may lie that leads this machine's browser to the page, by default the system's folder for
        temporary files. Browsers that are installed as snaps read none but those below one's home.

    Raises:
      ConfigError: the port is not free.
    """
    server = make_server(session, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        with interruptible():
            announce(f"Label at {server.url}")
            announce("It can be opened on this machine only. Ctrl-C stops; every answer is saved at once.")
            with ExitStack() as until_it_stops:
                if open_browser and _has_display():
                    door = until_it_stops.enter_context(_door(server.url, folder))
                    threading.Thread(target=webbrowser.open, args=(door,), daemon=True).start()
                reason = _run(server, idle_seconds)
    except KeyboardInterrupt:
        reason = "interrupted"
    finally:
        server.stop()
        server.shutdown()
        server.server_close()
    if server.failed is not None:
        raise server.failed
    announce(f"Stopped ({reason}). Every answer is saved; start it again to go on.")


def _run(server: LabelServer, idle_seconds: float) -> str:
    """Train when it is time to, until there is a reason to stop."""
    advance = getattr(server.session, "advance", None)
    while not server.stopping.wait(0.1):
        if server.state().phase == "training":
            if advance is not None:
                advance()
            server.active = time.monotonic()
        elif time.monotonic() - server.active > idle_seconds:
            return f"no answer for {idle_seconds:.0f} seconds"
    return "by the page"


@contextmanager
def _door(url: str, folder: str | Path | None) -> Iterator[str]:
    """The address of a file that leads to `url`, and that nobody else can read, as everybody can a command line."""
    with tempfile.TemporaryDirectory(prefix="label-", dir=folder, ignore_cleanup_errors=True) as private:
        file = Path(private).resolve() / "open.html"
        file.touch(mode=0o600)
        file.write_text(
            f'<!doctype html><title>bdal label</title><meta http-equiv="refresh" content="0; url={url}">'
            f'<p><a href="{url}">The labelling page</a></p>\n'
        )
        yield file.as_uri()


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


# -- requests --------------------------------------------------------------------------------------------------------


class _NotAskedError(LabelError):
    """An answer to a point that is not asked for now."""


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    timeout = 10  # seconds without a byte, and for the whole answer to be taken
    server_version = sys_version = ""

    def do_GET(self) -> None:
        self.server.has_come(self.connection)
        route = self._route()
        if route is None:
            return
        if route == "":
            self.server.active = time.monotonic()
            self._send(200, "text/html; charset=utf-8", self.server.page)
        elif route == "state":
            self._send_json(200, as_json(self.server.state()))
        elif found := re.fullmatch(r"image/([0-9]{1,10})", route):
            self._send_image(int(found[1]))
        else:
            self._refuse(404, "there is nothing here")

    def do_POST(self) -> None:
        content = self._content()  # read even if it is refused: a browser reads no answer before it has sent all
        self.server.has_come(self.connection)
        route = self._route()
        if route is None:
            return
        if route not in ("answer", "stop"):
            self._refuse(404, "there is nothing here")
        elif self.headers.get("Origin") not in {None, *(f"http://{host}" for host in self.server.hosts)}:
            self._refuse(403, "expected a request of the labelling page itself")
        elif self.headers.get_content_type() != "application/json":
            self._refuse(415, "expected application/json")
        elif content is None:
            self._refuse(413, f"expected a Content-Length of at most {LARGEST} bytes")
        else:
            try:
                body = json.loads(content)
            except (ValueError, RecursionError):
                body = None
            if not isinstance(body, dict):
                self._refuse(400, "expected a JSON object")
            elif route == "answer":
                self._answer(body)
            else:
                self._stop()

    def _answer(self, body: Any) -> None:
        self.server.active = time.monotonic()
        try:
            self.server.tell(body)
        except _NotAskedError as error:
            self._refuse(409, str(error))
        except LabelError as error:
            self._refuse(422, str(error))
        except LockedError as error:
            self._refuse(503, f"The answer is not saved: {error}")
            self.server.fail(error)
        except (OSError, ValueError) as error:  # a full disk, a damaged ledger: the page keeps it and tries again
            self._refuse(503, f"The answer is not saved yet: {getattr(error, 'strerror', None) or error}")
        else:
            self._send_json(200, as_json(self.server.state()))

    def _stop(self) -> None:
        self._send_json(200, {"stopped": True})
        self.server.stop()

    def _send_image(self, pool_index: int) -> None:
        self.server.active = time.monotonic()
        content = problem = None
        with self.server.lock:
            names = {item.pool_index: item.name for item in self.server.session.state().items}
            try:
                content = self.server.session.image(pool_index) if pool_index in names else None
            except (OSError, ValueError) as error:
                problem = error
        if pool_index not in names:
            self._refuse(404, "this point is not in the open query")
        elif isinstance(problem, OSError):
            self._refuse(404, f"{names[pool_index]}: cannot be read: {problem.strerror or problem}")
        elif problem is not None:
            self._refuse(415, str(problem))
        elif content is None:
            self._send(204, "text/plain", b"")
        elif (kind := image_type(content)) is None:
            self._refuse(415, f"{names[pool_index]}: expected a PNG, JPEG, GIF, WebP or BMP file, found something else")
        else:
            self._send(200, kind, content, cache="private, max-age=3600")

    def _route(self) -> str | None:
        """What comes after the secret; None once the request is refused."""
        if self.headers.get_all("Host") not in [[host] for host in self.server.hosts]:
            self._refuse(403, f"expected the address that was printed, at 127.0.0.1:{self.server.server_port}")
            return None
        _, _, rest = self.path.partition("/")
        secret, slash, route = rest.partition("/")
        if not slash or not hmac.compare_digest(secret.encode("utf-8", "replace"), self.server.secret.encode()):
            self._refuse(403, "open the address that was printed when it was started")
            return None
        return route

    def _content(self) -> bytes | None:
        """The body; None if it is too large, or of a length that is not said."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length):
            return None
        content = self.rfile.read(min(int(length), 16 * LARGEST))
        return content if int(length) <= LARGEST else None

    def _refuse(self, status: int, message: str) -> None:
        self._send_json(status, {"error": message})

    def _send_json(self, status: int, tree: Any) -> None:
        self._send(status, "application/json", json.dumps(tree, allow_nan=False).encode())

    def _send(self, status: int, kind: str, content: bytes, cache: str = "no-store") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": cache,
            "Content-Security-Policy": self.server.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the address holds the secret."""
