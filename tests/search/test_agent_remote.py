"""The driver's side: what is tried again, what is said at once, and that no number of this machine stands in."""

import json
import random
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from agents import TOKEN, agent, board
from definitions import write_definition
from streaming_onnx import streaming_model
from wires import dropping, serving

from search import agent_link, feasible, measure, remote
from search.agent import jobs, server
from search.agent.errors import Refused
from search.cli import main
from search.latency import MeasurementFailed
from search.remote import require_agent, run_on_agent
from search.study import read_study
from sekd.errors import InputError


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("SEKD_AGENT_TOKEN", TOKEN)
    monkeypatch.delenv("SEKD_AGENT_TOKEN_FILE", raising=False)
    monkeypatch.delenv("SEKD_AGENT_INSECURE", raising=False)
    monkeypatch.setattr(agent_link, "AWAY_S", 2.0)
    monkeypatch.setattr(agent_link, "FIRST_PAUSE_S", 0.05)


@pytest.fixture
def model(tmp_path):
    return streaming_model(tmp_path / "m.onnx", hop=64)


@pytest.fixture
def ran(monkeypatch):
    """Jobs that measure nothing; what was run."""
    found = []

    def run(job, limits):
        found.append(job.order)
        time.sleep(job.order.request.get("nap_s", 0))
        if "fail" in job.order.request:
            raise Refused(job.order.request["fail"])
        return {"echo": job.order.request}

    monkeypatch.setattr(server, "run_job", run)
    monkeypatch.setattr(remote, "REPLY", ("echo",))
    return found


def test_a_device_measures_for_one_at_a_time_whoever_asks(model, monkeypatch, ran):
    """Drivers on machines of their own share no lock: the queue of the agent is what keeps them apart."""
    spans = []

    def run(job, limits):
        began = time.monotonic()
        time.sleep(0.05)
        spans.append((began, time.monotonic()))
        return {"echo": 1}

    monkeypatch.setattr(server, "run_job", run)
    with agent() as served:
        askers = [
            threading.Thread(
                target=run_on_agent, args=(board(served.port), model, {"hop_ms": float(n), "limit_s": 5.0})
            )
            for n in range(1, 7)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert len(spans) == 6
    assert all(ended <= began for (_, ended), (began, _) in zip(spans, spans[1:], strict=False))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_measures_on_the_agent_from_end_to_end(model):
    quick = measure.Level("quick", 30, 5, 1, 0.0, 5.0)
    with agent() as running:
        found = measure.measure(model, board(running.port), level=quick)
    assert (found.kind, found.source, found.n) == ("measured", "agent", 30)
    assert {"cpu", "cpus", "governor", "onnxruntime", "temperature_c"} <= found.environment.keys()
    assert TOKEN not in found.model_dump_json()


def test_each_process_is_an_order_of_its_own(model, ran):
    with agent() as running:
        for _ in range(3):
            assert run_on_agent(board(running.port), model, {"cores": (0, 1)})["echo"] == {"cores": [0, 1]}
    assert len({order.id for order in ran}) == 3 and {order.model for order in ran} == {model.read_bytes()}


def test_a_failure_on_the_device_is_told_as_it_is(model, ran):
    with agent() as running, pytest.raises(MeasurementFailed, match=r"m\.onnx: bad model") as failed:
        run_on_agent(board(running.port), model, {"fail": "bad\nmodel"})
    assert "\n" not in str(failed.value)


def test_an_agent_of_another_age_is_to_be_packed_again(model, ran, monkeypatch):
    with agent() as running:
        with pytest.raises(MeasurementFailed, match="unknown key 'new' in the request; pack the agent again"):
            run_on_agent(board(running.port), model, {"fail": "unknown key 'new' in the request"})
        monkeypatch.setattr(remote, "REPLY", ("canary_ms",))
        with pytest.raises(MeasurementFailed, match="answers without 'canary_ms': pack the agent again"):
            run_on_agent(board(running.port), model, {})


def test_an_agent_that_starts_late_or_anew_is_waited_for(model, ran):
    port = free_port()
    results = []

    def drive():
        results.append(run_on_agent(board(port), model, {"nap_s": 0.8}))

    thread = threading.Thread(target=drive)
    thread.start()
    time.sleep(0.2)
    with agent(port=port):  # it takes the order and is gone before it is done
        until = time.monotonic() + 10
        while not ran and time.monotonic() < until:
            time.sleep(0.02)
    time.sleep(0.2)
    with agent(port=port):
        thread.join(15)
    assert results == [{"echo": {"nap_s": 0.8}}]
    assert len(ran) == 2 and ran[0] == ran[1]  # the same order, not another one


def test_a_device_that_stays_away_gives_no_number(model, monkeypatch):
    monkeypatch.setattr(measure, "run_here", None)
    port = free_port()
    began = time.monotonic()
    with pytest.raises(
        MeasurementFailed, match=f"^device 'board': no agent at http://127.0.0.1:{port} for 2 s: "
    ) as gone:
        measure.measure(model, board(port))
    assert "refused" in str(gone.value) and 0.5 < time.monotonic() - began < 10


def test_an_agent_killed_for_good_gives_no_number(model, ran):
    port = free_port()
    failures = []

    def drive():
        with pytest.raises(MeasurementFailed) as failed:
            run_on_agent(board(port), model, {"nap_s": 1.0})
        failures.append(str(failed.value))

    with agent(port=port):
        thread = threading.Thread(target=drive)
        thread.start()
        until = time.monotonic() + 10
        while not ran and time.monotonic() < until:
            time.sleep(0.02)
    thread.join(20)
    assert len(failures) == 1 and "no agent at" in failures[0]


def test_a_model_that_takes_the_agent_down_is_given_up(model, ran, monkeypatch):
    monkeypatch.setattr(jobs.Jobs, "find", lambda *_: None)  # as if it had started anew each time
    with agent() as running, pytest.raises(MeasurementFailed, match="lost the order 3 times"):
        run_on_agent(board(running.port), model, {})


def test_a_full_queue_is_waited_for(model, ran, monkeypatch):
    monkeypatch.setattr(agent_link, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(remote, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(jobs, "QUEUE", 1)
    with agent() as running:
        drivers = [
            threading.Thread(target=run_on_agent, args=(board(running.port), model, {"nap_s": 0.2})) for _ in range(5)
        ]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join(20)
    assert len(ran) == len({order.id for order in ran}) == 5


def test_others_do_not_keep_the_device_for_ever(model, ran, monkeypatch):
    monkeypatch.setattr(remote, "BUSY_S", 0.1)
    monkeypatch.setattr(remote, "WAIT_S", 1)
    with agent() as running, pytest.raises(MeasurementFailed, match="was busy for 0.1 s"):
        run_on_agent(board(running.port), model, {"nap_s": 1.5})
    assert len(ran) == 1


def test_an_order_is_taken_back_when_the_driver_ends(model, monkeypatch):
    stopped = threading.Event()

    def run(job, limits):
        job.stop = stopped.set
        stopped.wait(10)
        return {}

    monkeypatch.setattr(server, "run_job", run)
    monkeypatch.setattr(remote, "_await", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with agent() as running:
        with pytest.raises(KeyboardInterrupt):
            run_on_agent(board(running.port), model, {})
        assert stopped.wait(5)


@pytest.mark.parametrize("cut", [0, 1, 10, 60, 2000])
def test_a_connection_dropped_at_any_stage_is_tried_again(model, ran, cut):
    """The first four connections break after ``cut`` bytes of the order, or of the answer."""
    with agent() as running, dropping(running.port, cut, 4) as port:
        assert run_on_agent(board(port), model, {})["echo"] == {}
    assert len(ran) == 1  # sent several times, run once


@pytest.mark.parametrize("token", ["", "another-token-of-the-suite"])
def test_a_missing_or_wrong_token_is_told_at_once(model, monkeypatch, token):
    monkeypatch.setenv("SEKD_AGENT_TOKEN", token)
    began = time.monotonic()
    with agent() as running:
        for ask in (require_agent, lambda device: run_on_agent(device, model, {})):
            with pytest.raises(InputError, match="SEKD_AGENT_TOKEN.*SEKD_AGENT_TOKEN_FILE") as error:
                ask(board(running.port))
            assert not token or token not in str(error.value)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://192.0.2.1:8517", "the token would travel in the clear"),
        ("http://127.evil.example:8517", "the token would travel in the clear"),
        ("ftp://127.0.0.1", "write http://HOST:PORT"),
        ("127.0.0.1:8517", "write http://HOST:PORT"),
        ("http://127.0.0.1:99999", "out of range"),
        ("http://127.0.0.1:8517/v1?token=secret", "the token comes from"),
        ("http://user:secret@127.0.0.1:8517", "the token comes from"),
    ],
)
def test_a_wrong_address_is_told_at_once(url, message):
    with pytest.raises(InputError, match=message) as error:
        require_agent(board(1, url=url))
    assert "secret" not in str(error.value)


def test_insecure_has_to_be_wanted(monkeypatch):
    monkeypatch.setenv("SEKD_AGENT_INSECURE", "1")
    monkeypatch.setattr(agent_link, "CONTACT_S", 0.2)
    with pytest.raises(agent_link.Away):
        agent_link.Link(board(1, url="http://192.0.2.1:8517")).ask("GET", "/", timeout_s=0.2)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"protocol": 2}', b"[1]"])
def test_another_server_or_protocol_is_no_agent(body):
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with serving(answer) as port, pytest.raises(InputError, match="no agent of protocol 1; pack it again"):
        require_agent(board(port))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{",
        b"\xff" * 70_000,
    ],
)
def test_what_is_no_answer_is_no_agent(answer, model, monkeypatch):
    monkeypatch.setattr(agent_link, "AWAY_S", 0.2)
    with serving(answer) as port:
        with pytest.raises(InputError, match="board': no agent at"):
            require_agent(board(port))
        with pytest.raises(MeasurementFailed, match="board': no agent at"):
            run_on_agent(board(port), model, {})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=board", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    return folder


def _context(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_tls_with_a_certificate_of_ones_own(certificate, model, ran):
    with agent(context=_context(certificate)) as running:
        url, ca_file = f"https://127.0.0.1:{running.port}", str(certificate / "cert.pem")
        trusted = board(1, url=url, ca_file=ca_file)
        assert run_on_agent(trusted, model, {})["echo"] == {}
        with pytest.raises(InputError, match="certificate not trusted.*give ca_file"):
            require_agent(board(1, url=url))
        with pytest.raises(InputError, match="certificate not trusted.*mismatch"):
            require_agent(board(1, url=url.replace("127.0.0.1", "localhost"), ca_file=ca_file))
        with pytest.raises(InputError, match="board': no agent at"):
            require_agent(board(running.port))  # without TLS
        with socket.create_connection(("127.0.0.1", running.port)) as silent:
            silent.sendall(b"\x16\x03\x01")
        require_agent(trusted)
    with pytest.raises(InputError, match="ca_file /nowhere: No such file"):
        require_agent(board(1, url=url, ca_file="/nowhere"))


def _profile(folder, port):
    path = folder / "board.toml"
    path.write_text(f'name = "board"\ndescription = "x"\nlatency = "agent"\nurl = "http://127.0.0.1:{port}"\n')
    return path


def test_the_commands_tell_an_absent_device_in_one_line(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(agent_link, "AWAY_S", 0.2)
    profile = _profile(tmp_path, free_port())
    study = write_definition(tmp_path, {"device": str(profile), "budget": {"latency_ms": 1.0}})
    for arguments in (("measure", str(model), "--device", str(profile)), ("check", str(study)), ("launch", str(study))):
        assert main(list(arguments)) == 2
        out, err = capsys.readouterr()
        assert "board': no agent at" in err and err.count("\n") == 1 and not out


def test_measure_prints_what_the_agent_measured(tmp_path, model, capsys, ran, monkeypatch):
    with agent() as running:
        monkeypatch.undo()
        monkeypatch.setenv("SEKD_AGENT_TOKEN", TOKEN)
        assert (
            main(
                [
                    "measure",
                    str(model),
                    "--device",
                    str(_profile(tmp_path, running.port)),
                    "--level",
                    "screening",
                    "--json",
                ]
            )
            == 0
        )
    out = capsys.readouterr().out
    assert json.loads(out)["latency"]["board"]["source"] == "agent" and TOKEN not in out


def test_a_trial_whose_device_stays_away_is_infeasible_and_unmeasured(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_link, "AWAY_S", 0.2)
    monkeypatch.setenv("SEKD_CACHE", str(tmp_path / "cache"))
    profile = _profile(tmp_path, free_port())
    study = read_study(write_definition(tmp_path, {"device": str(profile), "budget": {"latency_ms": 1.0}}))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (record,) = feasible._records(study, [study.sample(random.Random(0))], scratch)
    assert record.status == "INFEASIBLE" and "not measured: device 'board': no agent at" in record.reason
    assert record.value("latency_ms", "board") is None
    assert TOKEN not in record.model_dump_json()


def test_the_driver_loads_no_onnxruntime():
    code = "import search.remote, sys; print('onnxruntime' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2
