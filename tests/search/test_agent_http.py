"""What an agent answers to requests that are wrong, slow, too many, or cut off."""

import json
import random
import socket
import struct
import threading
import time

import pytest
from agents import AUTHORISED, MEBI, TOKEN, agent, say, status

from search.agent import http_wire, jobs, server
from search.agent.errors import Refused
from search.agent.protocol import MAX_HEADER_BYTES, order_of, pack_order

HOST = "Host: x\r\n"


@pytest.fixture
def gate(monkeypatch):
    """Jobs that measure nothing and end when this is set."""
    opened = threading.Event()

    def run(job, limits):
        job.stop = opened.set
        assert opened.wait(20)
        if job.order.request.get("fail"):
            raise Refused("it\nfailed")
        return {"ran": job.order.id}

    monkeypatch.setattr(server, "run_job", run)
    yield opened
    opened.set()


@pytest.fixture
def port(gate, monkeypatch):
    monkeypatch.setattr(http_wire, "LINGER_S", 0.2)
    with agent() as running:
        yield running.port


def get(port, path, fields=AUTHORISED):
    return say(port, f"GET {path} HTTP/1.1\r\n{HOST}{fields}\r\n")


def post(port, body, fields=AUTHORISED):
    return say(port, f"POST /v1/jobs HTTP/1.1\r\n{HOST}{fields}Content-Length: {len(body)}\r\n\r\n", body)


def document(answer):
    return json.loads(answer.split("\r\n\r\n", 1)[1])


def order(nonce, model=b"model", **request):
    return order_of(request, model, nonce)


def alive(port):
    return status(get(port, "/v1/health")) == 200


def test_health(port):
    answer = get(port, "/v1/health")
    assert status(answer) == 200
    assert document(answer) == {"protocol": 1, "fingerprint": {"cpu": "of a test"}}


@pytest.mark.parametrize(
    "fields",
    ["", "Authorization: Bearer \r\n", "Authorization: Bearer wrong\r\n", f"Authorization: {TOKEN}\r\n",
     f"Authorization: Basic {TOKEN}\r\n", f"Authorization: Bearer {TOKEN}x\r\n", f"X-Token: {TOKEN}\r\n"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/health", "/nowhere", f"/v1/jobs/{'0' * 64}"])
def test_nothing_is_told_without_the_token(port, fields, path):
    answer = get(port, path, fields)
    assert status(answer) == 401 and document(answer) == {"error": "the token is missing or wrong"}


def test_no_body_is_read_without_the_token(port):
    head = f"POST /v1/jobs HTTP/1.1\r\n{HOST}Content-Length: 1000\r\n\r\n"
    assert status(say(port, head)) == 401  # it never came


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\r\n\r\n", 400),
        ("GARBAGE\r\n\r\n", 400),
        ("GET /v1/health\r\n\r\n", 400),
        ("get /v1/health HTTP/1.1\r\n\r\n", 400),
        ("GET  /v1/health HTTP/1.1\r\n\r\n", 400),
        ("GET http://x/v1/health HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/health HTTP/2.0\r\n\r\n", 400),
        ("GET /v1/\x00health HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nA : b\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nA: b\nB: c\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nA: \x7f\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\nA: b\r\na: c\r\n\r\n", 400),
        ("GET /" + "a" * 300 + " HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/health HTTP/1.1\r\n" + "".join(f"A{i}: b\r\n" for i in range(40)) + "\r\n", 431),
        ("GET /v1/health HTTP/1.1\r\nA: " + "b" * 9000 + "\r\n\r\n", 431),
        ("A" * 20_000, 431),
        ("\x16\x03\x01" + "\x00" * 9000, 431),
    ],
)
def test_malformed_heads(port, text, wanted):
    answer = say(port, text)
    assert status(answer) == wanted and len(document(answer)["error"]) < 60
    assert alive(port)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ("", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", 411),
        ("Content-Length: 4\r\nContent-Encoding: gzip\r\n", 415),
        ("Content-Length: 4\r\nExpect: 100-continue\r\n", 417),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: +4\r\n", 400),
        ("Content-Length: 4, 4\r\n", 400),
        ("Content-Length: 0x4\r\n", 400),
        ("Content-Length: \r\n", 400),
        ("Content-Length: 4\r\nContent-Length: 5\r\n", 400),
        (f"Content-Length: {MEBI + MAX_HEADER_BYTES + 1}\r\n", 413),
        ("Content-Length: 999999999999\r\n", 413),
        ("Content-Length: 9999999999999999999999999\r\n", 400),
    ],
)
def test_bodies_of_unknown_length_or_kind(port, fields, wanted):
    assert status(say(port, f"POST /v1/jobs HTTP/1.1\r\n{HOST}{AUTHORISED}{fields}\r\n", b"abcd")) == wanted
    assert alive(port)


def _packed(header, model=b"m"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text + model


@pytest.mark.parametrize(
    "body",
    [
        b"", b"abc", b"\xff\xff\xff\xff", struct.pack(">I", 10) + b"{}", _packed(b""), _packed(b"[]"), _packed(b"\xff"),
        _packed(b"{" * 9000), _packed(b"[" * 9000), _packed({}),
        _packed({"protocol": 2, "id": "0" * 64, "request": {}}),
        _packed({"protocol": 1, "id": "0" * 64}), _packed({"protocol": 1, "id": "0" * 63, "request": {}}),
        _packed({"protocol": 1, "id": 7, "request": {}}), _packed({"protocol": 1, "id": "0" * 64, "request": []}),
        _packed({"protocol": 1, "id": "../" * 21 + "a", "request": {}}),
        _packed({"protocol": 1, "id": "0" * 64, "request": {}, "more": 1}),
        _packed(b'{"protocol": 1, "id": "' + b"0" * 64 + b'", "request": {"limit_s": NaN}}'),
    ],
)  # fmt: skip
def test_bodies_that_are_no_order(port, body):
    answer = post(port, body)
    assert status(answer) == 400 and "\n" not in document(answer)["error"]
    assert alive(port)


def test_a_model_above_the_limit(port):
    fits, above = (order("a", bytes(MEBI + more)) for more in (0, 1))
    assert status(post(port, pack_order(fits))) == 202
    answer = post(port, pack_order(above))
    assert (status(answer), document(answer)) == (413, {"error": "the model is above 1 MiB"})


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("GET /", 404), ("GET /v1/jobs/", 404), ("GET /v1/jobs/../health", 404), (f"GET /v1/jobs/{'0' * 64}", 404),
        (f"GET /v1/jobs/{'g' * 64}", 404), ("PUT /v1/health", 405), ("GET /v1/jobs", 405), ("HEAD /v1/health", 405),
        (f"POST /v1/jobs/{'0' * 64}", 405), (f"DELETE /v1/jobs/{'0' * 64}", 404), ("BREW /v1/health", 405),
        (f"GET /v1/jobs/{'0' * 64}?wait_s=-1", 400), (f"GET /v1/jobs/{'0' * 64}?wait_s=1e9", 400),
        (f"GET /v1/jobs/{'0' * 64}?a=1", 400), (f"GET /v1/jobs/{'0' * 64}?{'&a=1' * 20}", 400),
    ],
)  # fmt: skip
def test_paths_methods_and_parameters(port, line, wanted):
    assert status(say(port, f"{line} HTTP/1.1\r\n{AUTHORISED}\r\n")) == wanted


def test_the_life_of_a_job(port, gate):
    made = order("a")
    answer = post(port, pack_order(made))
    assert status(answer) == 202 and document(answer)["id"] == made.id
    assert document(post(port, pack_order(made)))["state"] in ("queued", "running")  # not run twice
    path = f"/v1/jobs/{made.id}"
    threading.Timer(0.3, gate.set).start()
    began = time.monotonic()
    assert document(get(port, f"{path}?wait_s=20"))["reply"] == {"ran": made.id}
    assert time.monotonic() - began < 10
    assert document(post(port, pack_order(made)))["state"] == "done"
    assert status(say(port, f"DELETE {path} HTTP/1.1\r\n{AUTHORISED}\r\n")) == 200
    assert status(get(port, path)) == 404


def test_a_failure_is_one_line(port, gate):
    gate.set()
    made = order("a", fail=True)
    post(port, pack_order(made))
    found = document(get(port, f"/v1/jobs/{made.id}?wait_s=9"))
    assert (found["state"], found["error"]) == ("failed", "it failed")


def test_an_id_is_one_order(port):
    made = order("a")
    post(port, pack_order(made))
    answer = post(port, pack_order(made._replace(model=b"other")))
    assert (status(answer), document(answer)) == (400, {"error": "another order has this id"})


def test_a_full_queue_says_when_to_come_again(port):
    answers = [post(port, pack_order(order(str(i)))) for i in range(jobs.QUEUE + 2)]
    time.sleep(0.1)
    assert [status(answer) for answer in answers[: jobs.QUEUE]] == [202] * jobs.QUEUE
    answer = post(port, pack_order(order("last")))
    assert status(answer) == 429 and "\r\nRetry-After: 2\r\n" in answer


def test_results_expire_and_are_so_many_at_most(monkeypatch):
    now = [0.0]
    kept = jobs.Jobs(lambda job: {}, clock=lambda: now[0])
    monkeypatch.setattr(jobs, "KEPT", 3)
    made = [order(str(i)) for i in range(6)]
    for each in made:
        kept.submit(each)
        assert kept.find(each.id, 5).state == "done"
        now[0] += 1
    assert [kept.find(each.id) is not None for each in made] == [False] * 3 + [True] * 3
    now[0] = 5 + jobs.KEPT_S
    assert [kept.find(each.id) is not None for each in made[3:]] == [False, False, True]
    kept.close()


@pytest.mark.parametrize(
    "parts", [("GET /v1/he",), (f"POST /v1/jobs HTTP/1.1\r\n{AUTHORISED}Content-Length: 9\r\n\r\n", "a")]
)
def test_what_is_slow_is_ended_although_it_drips(port, monkeypatch, parts):
    for name in ("HEAD_S", "BODY_S"):
        monkeypatch.setattr(http_wire, name, 0.4)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part.encode())
        answer, dripping = b"", threading.Thread(target=_drip, args=(connection,))
        dripping.start()
        answer = connection.recv(65536)
        dripping.join()
    assert status(answer.decode()) == 408 and time.monotonic() - began < 5


def _drip(connection):
    try:
        for _ in range(5):
            time.sleep(0.15)
            connection.sendall(b"a")
    except OSError:
        pass


def test_slow_ones_do_not_keep_others_away_for_ever(port, monkeypatch):
    monkeypatch.setattr(http_wire, "HEAD_S", 0.5)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(server.MAX_CONNECTIONS + 8)]
    time.sleep(1.0)
    assert alive(port)
    for connection in slow:
        connection.close()


WHOLE = f"POST /v1/jobs HTTP/1.1\r\n{AUTHORISED}Content-Length: 2000\r\n\r\n".encode() + bytes(2000)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [0, 3, 40, 110, 1000, len(WHOLE)])
def test_a_connection_dropped_at_any_stage(port, sent, reset):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(WHOLE[:sent])
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert alive(port)


def test_no_bytes_bring_it_down(port):
    rng = random.Random(0)
    good = WHOLE[: WHOLE.index(b"\r\n\r\n")] + b"\r\n\r\n" + pack_order(order("a"))
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        answer = say(port, bytes(damaged[: rng.randrange(len(damaged))]), end=True)
        assert not answer or status(answer) >= 400
    assert alive(port)


def test_a_client_that_goes_while_it_waits(port, gate):
    made = order("a")
    post(port, pack_order(made))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET /v1/jobs/{made.id}?wait_s=1 HTTP/1.1\r\n{AUTHORISED}\r\n".encode())
    gate.set()
    assert document(get(port, f"/v1/jobs/{made.id}?wait_s=9"))["state"] == "done"


def test_the_log_tells_neither_token_nor_path(port, capfd):
    get(port, f"/v1/health?token={TOKEN}")
    get(port, "/v1/health", f"Authorization: Bearer {TOKEN}x\r\n")
    alive(port)
    time.sleep(0.1)
    out, err = capfd.readouterr()
    assert "127.0.0.1 GET 200" in err and "GET 401" in err
    assert TOKEN not in out + err and "health" not in err


def test_an_error_of_ours_tells_nothing_of_itself(port, monkeypatch):
    monkeypatch.setattr(jobs.Jobs, "find", lambda *_: 1 / 0)
    answer = get(port, f"/v1/jobs/{'0' * 64}")
    assert (status(answer), document(answer)) == (500, {"error": "the agent failed"})
