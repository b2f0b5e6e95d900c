"""The server of the labelling page, by plain HTTP: what it answers, what it refuses, when it stops."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import yaml

from bdal import config
from bdal.datasets import load
from bdal.errors import ConfigError, LabelError
from bdal.labelling import server
from bdal.labelling.exchange import Item, State
from bdal.labelling.questions import picture
from bdal.labelling.server import make_server, serve
from bdal.pool import ABSTAIN
from bdal.store.lock import LockedError

IMAGES = np.random.default_rng(0).random((20, 4, 4))


class Fake:
    """A session in memory, which trains for as long as `trained` is not set."""

    def __init__(self, indices=(12, 7, 3)):
        self.answers = dict.fromkeys(indices)
        self.phase = "label"
        self.told = []
        self.inside = threading.Lock()
        self.before_keeping = lambda: None

    def state(self):
        items = tuple(Item(index, f"point {index}", answer) for index, answer in self.answers.items())
        items = items if self.phase == "label" else ()
        return State(1, 5, self.phase, items, ("cat", "dog"), ((10, 0.5), (20, None)), 20 + len(self.told), 50, 15)

    def image(self, pool_index):
        found = picture(pool_index, IMAGES)
        return None if found is None or pool_index == 3 else found.content

    def tell(self, pool_index, label):
        assert self.inside.acquire(blocking=False)  # one at a time
        self.before_keeping()
        if label == 1 and pool_index == 3:
            raise LabelError("pool point 3 is never a dog")
        self.told.append((pool_index, label))
        self.answers[pool_index] = label
        if None not in self.answers.values():
            self.phase = "training"
        self.inside.release()


class Client:
    def __init__(self, server):
        self.server = server
        self.base = f"/{server.secret}/"

    def send(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def get(self, route, **headers):
        return self.send("GET", self.base + route, headers=headers)

    def post(self, route, tree, **headers):
        body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        return self.send("POST", self.base + route, body, {"Content-Type": "application/json"} | headers)

    def answer(self, pool_index, answer, identity=None):
        status, _, body = self.post(
            "answer", {"id": identity or f"{pool_index}/{answer}", "pool_index": pool_index, "label": answer}
        )
        return status, json.loads(body)


@pytest.fixture
def session():
    return Fake()


@pytest.fixture
def client(session):
    server = make_server(session)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Client(server)
    server.shutdown()
    server.server_close()
    thread.join()


# -- what it answers -------------------------------------------------------------------------------------------------


def test_it_listens_on_this_machine_only(client):
    assert client.server.server_address[0] == "127.0.0.1"
    assert client.server.url == f"http://127.0.0.1:{client.server.server_port}/{client.server.secret}/"


def test_the_state(client, session):
    session.answers[7] = ABSTAIN
    status, headers, body = client.get("state")
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert json.loads(body) == {
        "round": 1,
        "total_rounds": 5,
        "phase": "label",
        "items": [
            {"pool_index": 12, "name": "point 12", "answer": None},
            {"pool_index": 7, "name": "point 7", "answer": "abstain"},
            {"pool_index": 3, "name": "point 3", "answer": None},
        ],
        "class_names": ["cat", "dog"],
        "history": [[10, 0.5], [20, None]],
        "labels_paid": 20,
        "budget": 50,
        "training_labels": 15,
        "message": "",
        "instruction": "",
        "keys": ["1", "2"],
    }


def test_answers_are_told_with_abstentions_and_corrections(client, session):
    status, state = client.answer(12, 1)
    assert (status, state["items"][0]["answer"]) == (200, 1)
    assert client.answer(12, 0)[0] == 200
    assert client.answer(7, "abstain")[1]["items"][1]["answer"] == "abstain"
    assert session.told == [(12, 1), (12, 0), (7, ABSTAIN)]
    assert client.answer(3, 0)[1]["phase"] == "training"


def test_an_answer_that_is_sent_again_is_told_once(client, session):
    for _ in range(3):
        assert client.answer(12, 1, "one")[0] == 200
    assert client.answer(12, 0, "two")[0] == 200
    assert client.answer(12, 1, "one")[0] == 200  # late, and not a correction
    assert session.told == [(12, 1), (12, 0)]
    session.answers = {5: None}  # the next query
    assert client.answer(12, 1, "one")[0] == 200
    assert session.told == [(12, 1), (12, 0)]


def test_an_answer_that_could_not_be_kept_can_be_sent_again(client, session):
    def full():
        session.inside.release()
        raise OSError(28, "No space left on device")

    session.before_keeping = full
    assert client.answer(12, 1, "one") == (503, {"error": "The answer is not saved yet: No space left on device"})
    session.before_keeping = lambda: None
    assert client.answer(12, 1, "one")[0] == 200
    assert session.told == [(12, 1)]


def test_a_fault_of_our_own_is_no_full_disk(client, session, capsys):
    def faulty():
        session.inside.release()
        raise TypeError("ours")

    session.before_keeping = faulty
    with pytest.raises(http.client.RemoteDisconnected):  # the page keeps the answer, as for a server that is gone
        client.answer(12, 1, "one")
    assert "TypeError: ours" in capsys.readouterr().err
    session.before_keeping = lambda: None
    assert client.answer(12, 1, "one")[0] == 200


def test_a_session_whose_directory_is_another_s_now_ends_the_server_with_that_error(session):
    def taken():
        session.inside.release()
        raise LockedError("runs/a is no longer this process's own")

    session.before_keeping = taken
    lines, started = [], threading.Event()
    outcome = []

    def announce(line):
        lines.append(line)
        started.set()

    def run():
        try:
            serve(session, open_browser=False, announce=announce)
        except LockedError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(30)
    address = urlsplit(lines[0].removeprefix("Label at "))
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
    body = json.dumps({"id": "a", "pool_index": 12, "label": 1})
    connection.request("POST", f"{address.path}answer", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert (reply.status, json.loads(reply.read())["error"]) == (
        503, "The answer is not saved: runs/a is no longer this process's own",
    )  # fmt: skip
    thread.join(30)
    assert [str(error) for error in outcome] == ["runs/a is no longer this process's own"]
    assert session.told == []
    assert not any("Every answer is saved;" in line for line in lines)


def ends(connection, seconds=20):
    """Whether the other side closes a connection."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 4000\r\n\r\n"])
def test_a_request_that_comes_byte_by_byte_has_a_deadline_as_a_whole(client, monkeypatch, start):
    monkeypatch.setattr(server, "COMING", 0.5)
    with socket.create_connection(("127.0.0.1", client.server.server_port)) as slow:
        slow.sendall(start)
        over = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while not over.wait(0.05):
                    slow.send(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        assert ends(slow)
        over.set()
        thread.join()
    assert client.get("state")[0] == 200


def test_silent_connections_keep_nobody_out_and_are_few(client, session):
    before = threading.active_count()
    address = ("127.0.0.1", client.server.server_port)
    with contextlib.ExitStack() as open_now:
        silent = [open_now.enter_context(socket.create_connection(address)) for _ in range(200)]
        assert client.answer(12, 1)[0] == 200
        assert client.get("state")[0] == 200
        assert all(ends(connection) for connection in silent[: 200 - server.MOST])
        for _ in range(100):
            if threading.active_count() <= before + server.MOST:
                break
            time.sleep(0.05)
        assert threading.active_count() <= before + server.MOST
    assert session.told == [(12, 1)]


def test_an_answer_that_takes_long_to_write_is_not_cut_off(client, session, monkeypatch):
    monkeypatch.setattr(server, "COMING", 0.2)
    session.before_keeping = lambda: time.sleep(1)
    assert client.answer(12, 1)[0] == 200


def test_images(client):
    status, headers, body = client.get("image/12")
    assert (status, headers["Content-Type"], body) == (200, "image/png", picture(12, IMAGES).content)
    assert client.get("image/3")[0] == 204  # no image
    assert client.get("image/5")[0] == 404  # not asked


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"\xff\xd8\xff\xe0", 200, "image/jpeg"),
        (b"GIF89a", 200, "image/gif"),
        (b"RIFF....WEBPVP8 ", 200, "image/webp"),
        (b"BM....", 200, "image/bmp"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", 415, "application/json"),
        (b"<!doctype html><script>1</script>", 415, "application/json"),
        (b"", 415, "application/json"),
    ],
)
def test_only_images_that_hold_no_script_are_served(client, session, content, status, kind):
    session.image = lambda pool_index: content
    found, headers, _ = client.get("image/12")
    assert (found, headers["Content-Type"], headers["X-Content-Type-Options"]) == (status, kind, "nosniff")


def test_images_that_cannot_be_shown_are_named_and_hold_nothing_up(client, session, capsys):
    gone = FileNotFoundError(2, "No such file or directory", "/photos/cat.png")
    for problem, status, message in (
        (gone, 404, "point 12: cannot be read: No such file or directory"),
        (ValueError("/photos/cat.tif: expected an image"), 415, "/photos/cat.tif: expected an image"),
        (None, 415, "point 12: expected a PNG, JPEG, GIF, WebP or BMP file, found something else"),
    ):

        def image(pool_index, problem=problem):
            if problem is not None:
                raise problem
            return b"text"

        session.image = image
        found, _, body = client.get("image/12")
        assert (found, json.loads(body)) == (status, {"error": message})
    assert client.answer(12, "abstain")[0] == 200
    assert session.told == [(12, ABSTAIN)]
    assert capsys.readouterr().err == ""


def test_the_page_loads_nothing_from_elsewhere(client):
    status, headers, body = client.get("")
    page = body.decode()
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", page)
    assert not re.search(r"""\son\w+=["']|style=["']|src=["']""", page)  # what the policy would not let run
    policy = headers["Content-Security-Policy"]
    for tag in ("script", "style"):
        inside = page[page.index(f"<{tag}>") + len(tag) + 2 : page.index(f"</{tag}>")]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


# -- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"pool_index": 12, "label": 2}, 'label: expected 0 .. 1 or "abstain", got 2'),
        ({"pool_index": 12, "label": -1}, "label: expected"),
        ({"pool_index": 12, "label": ABSTAIN + 1}, "label: expected"),
        ({"pool_index": 12, "label": True}, "label: expected"),
        ({"pool_index": 12, "label": 1.0}, "label: expected"),
        ({"pool_index": 12, "label": "dog"}, "label: expected"),
        ({"pool_index": 12, "label": None}, "label: expected"),
        ({"pool_index": 12}, "label: expected"),
        ({"pool_index": "12", "label": 1}, "pool_index: expected the number of a pool point, got '12'"),
        ({"pool_index": True, "label": 1}, "pool_index: expected"),
        ({"label": 1}, "pool_index: expected"),
        ({"pool_index": 12, "label": 1, "id": ""}, "id: expected text"),
        ({"pool_index": 12, "label": 1, "id": 5}, "id: expected text"),
        ({"pool_index": 12, "label": 1, "id": "x" * 200}, "id: expected text"),
        ({"pool_index": 3, "label": 1}, "pool point 3 is never a dog"),
    ],
)
def test_answers_that_are_refused(client, session, answer, message):
    status, _, body = client.post("answer", {"id": "one"} | answer)
    assert status == 422
    assert json.loads(body)["error"].startswith(message)
    assert session.told == []


@pytest.mark.parametrize("pool_index", [5, -1, 10**30])
def test_points_that_were_not_asked_for(client, session, pool_index):
    assert client.answer(pool_index, 1) == (409, {"error": f"pool point {pool_index} is not in the open query"})
    session.phase = "training"
    assert client.answer(12, 1)[0] == 409
    assert session.told == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", ""]
)
def test_other_hosts_are_refused(client, session, host):
    host = host.format(port=client.server.server_port)
    for route in ("", "state", "image/12"):
        assert client.get(route, Host=host)[0] == 403
    assert client.post("answer", {"id": "1", "pool_index": 12, "label": 1}, Host=host)[0] == 403
    assert session.told == []


def test_this_machine_may_be_called_localhost(client):
    assert client.get("state", Host=f"localhost:{client.server.server_port}")[0] == 200


def test_without_the_secret_there_is_nothing(client, session):
    secret = client.server.secret
    answer = json.dumps({"id": "1", "pool_index": 12, "label": 1})
    for path in ("/", "/state", "//state", f"/{secret}", f"/{secret[:-1]}/", f"/{secret}x/", f"/?{secret}/"):
        for method, body in (("GET", None), ("POST", answer)):
            status, _, content = client.send(method, path, body, {"Content-Type": "application/json"})
            assert (path, status) == (path, 403)
            assert secret.encode() not in content
    assert session.told == []


def test_what_is_not_even_http(client):
    for line in (
        b"GET /\xe9\xff/ HTTP/1.1\r\n",
        b"\x16\x03\x01\r\n",
        b"GET  \r\n",
        b"GET http://evil.example/ HTTP/1.1\r\n",
    ):
        with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=30) as connection:
            connection.sendall(line + f"Host: 127.0.0.1:{client.server.server_port}\r\n\r\n".encode())
            assert b" 200 " not in connection.makefile("rb").readline()
    assert client.get("state")[0] == 200


def test_two_hosts_are_none(client):
    host = f"Host: 127.0.0.1:{client.server.server_port}\r\n"
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=30) as connection:
        connection.sendall(f"GET {client.base}state HTTP/1.1\r\n{host}Host: evil.example\r\n\r\n".encode())
        assert b" 403 " in connection.makefile("rb").readline()


def test_every_start_has_its_own_secret(session):
    secrets = set()
    for _ in range(3):
        with make_server(session) as server:
            secrets.add(server.secret)
    assert len(secrets) == 3
    assert all(len(secret) >= 32 for secret in secrets)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil:{port}"]
)
def test_other_origins_are_refused(client, session, origin):
    answer = {"id": "1", "pool_index": 12, "label": 1}
    for route, tree in (("answer", answer), ("stop", {})):
        assert client.post(route, tree, Origin=origin.format(port=client.server.server_port))[0] == 403
    assert session.told == []
    assert not client.server.stopping.is_set()
    assert client.post("answer", answer, Origin=f"http://127.0.0.1:{client.server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "route",
    [
        "../server.py", "..%2f..%2fpyproject.toml", "image/../../page.html", "image/12/..", "image/-1", "image/1e1",
        "image/99999999999", "image/", "page.html", "state/", "state?x=1", "answer", "stop", "/etc/passwd",
    ],
)  # fmt: skip
def test_there_are_no_other_routes(client, route):
    assert client.get(route)[0] == 404


def test_other_methods_are_refused(client):
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"):
        assert client.send(method, client.base)[0] == 501
    assert client.post("state", {})[0] == 404


def test_bodies_that_are_refused(client, session):
    for body, status in ((b"{", 400), (b"[]", 400), (b"null", 400), (b"\xff", 400), (b"[" * 4000, 400), (b"", 400)):
        assert client.post("answer", body)[0] == status
    assert client.post("answer", b'{"id": "' + b"x" * 5000 + b'"}')[0] == 413
    assert client.post("answer", {}, **{"Content-Type": "text/plain"})[0] == 415  # what a form of another site can send
    assert (
        client.send("POST", client.base + "answer", None, {"Content-Type": "application/json", "Content-Length": "-1"})[
            0
        ]
        == 413
    )
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    assert client.send("POST", client.base + "answer", iter([b"{}"]), headers)[0] == 413
    assert session.told == []


def test_a_client_that_sends_nothing_holds_nobody_up(client):
    silent = http.client.HTTPConnection("127.0.0.1", client.server.server_port)
    silent.connect()
    assert client.get("state")[0] == 200
    silent.close()


def test_many_at_once(client, session):
    session.answers = dict.fromkeys(range(20))
    threads = [threading.Thread(target=client.answer, args=(index, 0)) for index in range(20) if index != 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(session.told) == [(index, 0) for index in range(20) if index != 3]


# -- when it stops ---------------------------------------------------------------------------------------------------


class Served:
    """`serve` in a thread, and what it announced."""

    def __init__(self, session, **options):
        self.lines, self.ready = [], threading.Event()
        options = {"open_browser": False} | options
        kwargs = options | {"announce": self.announce}
        self.thread = threading.Thread(target=serve, args=(session,), kwargs=kwargs, daemon=True)
        self.thread.start()
        assert self.ready.wait(30)

    def announce(self, line):
        self.lines.append(line)
        self.ready.set()

    def post(self, route, tree):
        url = self.lines[0].removeprefix("Label at http://")
        host, _, path = url.partition("/")
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/{path}{route}", json.dumps(tree), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def ended(self):
        self.thread.join(60)
        return not self.thread.is_alive()


def test_the_page_stops_it(session):
    served = Served(session)
    assert served.post("answer", {"id": "1", "pool_index": 12, "label": 1}) == 200
    assert served.post("stop", {}) == 200
    assert served.ended()
    assert served.lines[-1] == "Stopped (by the page). Every answer is saved; start it again to go on."
    with pytest.raises(ConnectionError):
        served.post("stop", {})


def test_it_stops_where_nobody_answers(session):
    served = Served(session, idle_seconds=0.0)
    assert served.ended()
    assert served.lines[-1].startswith("Stopped (no answer for 0 seconds)")


def test_it_trains_where_the_session_can(session):
    training = threading.Event()

    def advance():
        training.set()
        session.answers, session.phase = {5: None}, "label"

    session.advance = advance
    session.phase = "training"
    served = Served(session)
    assert training.wait(30)
    assert served.post("answer", {"id": "1", "pool_index": 5, "label": 1}) == 200
    served.post("stop", {})
    assert served.ended()


def test_training_that_fails_ends_it(session):
    def advance():
        raise LabelError("no good")

    session.advance, session.phase = advance, "training"
    with pytest.raises(LabelError, match="no good"):
        serve(session, open_browser=False, announce=lambda line: None)


def test_an_answer_in_writing_is_kept_before_it_stops(client, session):
    writing, go_on = threading.Event(), threading.Event()
    session.before_keeping = lambda: (writing.set(), go_on.wait(30))
    answering = threading.Thread(target=client.answer, args=(12, 1))
    answering.start()
    assert writing.wait(30)
    stopping = threading.Thread(target=client.server.stop)
    stopping.start()
    stopping.join(0.3)
    assert stopping.is_alive()
    go_on.set()
    stopping.join()
    answering.join()
    assert client.server.stopping.is_set()
    assert session.told == [(12, 1)]
    assert client.answer(7, 1) == (503, {"error": "The answer is not saved yet: bdal label has been stopped"})
    assert session.told == [(12, 1)]


def test_a_port_that_is_taken(session):
    with make_server(session) as server:
        with pytest.raises(ConfigError, match=f"port: expected a free port, 0 for any, got {server.server_port}: "):
            serve(session, port=server.server_port, announce=lambda line: None)
        with pytest.raises(ConfigError, match="got 99999"):
            make_server(session, 99999)


def test_a_browser_is_opened_where_there_is_a_display(session, monkeypatch, tmp_path):
    opened, ready = [], threading.Event()

    def browser(address):
        file = Path(unquote(urlsplit(address).path))
        opened.append((address, file, file.read_text(), file.stat().st_mode, file.parent.stat().st_mode))
        ready.set()

    monkeypatch.setattr(server.webbrowser, "open", browser)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server.sys, "platform", "linux")
    Served(session, idle_seconds=0.0, open_browser=True).ended()
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    (tmp_path / "a b").mkdir()
    served = Served(session, open_browser=True, folder=tmp_path / "a b")
    assert ready.wait(30)
    ((address, file, content, mode, folder_mode),) = opened
    url = served.lines[0].removeprefix("Label at ")
    assert f'content="0; url={url}"' in content
    assert address.startswith("file:///")
    assert url.split("/")[3] not in address  # which others on this machine can read
    assert (mode & 0o777, folder_mode & 0o777, file.parents[1]) == (0o600, 0o700, tmp_path / "a b")
    assert served.post("stop", {}) == 200
    assert served.ended()
    assert list((tmp_path / "a b").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it_in_order(number):
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_server import Fake
        from bdal.labelling.server import serve
        serve(Fake(), open_browser=False, announce=lambda line: print(line, flush=True))
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline().startswith(b"Label at http://127.0.0.1:")
        process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert out == b"Stopped (interrupted). Every answer is saved; start it again to go on.\n"


def test_the_config_on_the_docs_page_loads(tmp_path):
    page = (Path(__file__).parents[2] / "docs/people.md").read_text()
    (tmp_path / "photos.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    loaded = config.load(tmp_path / "photos.yaml")
    assert (loaded.labels.oracle, loaded.data.classes) == ("people", ("cat", "dog", "bird"))


def test_embeddings_with_files_are_seen_as_the_docs_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/people.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (fields,) = re.findall(r"`(data: \{name: photos/embeddings.*?\})`", page)
    named = re.findall(r'"(\w/\d+\.jpg)"', code)
    for name in named:
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).write_bytes(b"\xff\xd8\xff of " + name.encode())
    exec(compile(code, "docs/people.md", "exec"), {"embeddings": np.eye(3, 5)})  # noqa: S102 (our own file)
    data = config.Data(**yaml.safe_load(fields)["data"])
    found = load(data.name, class_names=data.classes)
    assert (found.inputs.shape, found.labels, found.file_names) == ((3, 5), None, named)
    assert [picture(i, found.inputs, found.files).content for i in range(3)] == [
        b"\xff\xd8\xff of " + name.encode() for name in named
    ]
    assert picture(0, found.inputs) is None  # without files
