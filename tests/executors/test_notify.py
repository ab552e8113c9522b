"""Notices: by webhook and by mail, again after trouble, and never an error of the run."""

import email
import email.policy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tokenmill.errors import ConfigError
from tokenmill.executors import notify
from tokenmill.executors.notify import Notice, channels, tell
from tokenmill.executors.secrets import Redactor
from tokenmill.executors.site import Mail

NOTICE = Notice(
    run="/runs/é 1",
    recipe="lines",
    state="failed",
    jobs=[
        {"name": "upper", "state": "complete", "num_shards": 9, "done": 9, "failed": 0, "message": ""},
        {"name": "count", "state": "failed", "num_shards": 2, "done": 1, "failed": 1, "message": "no sesame"},
    ],
    failures=["count: shard 1: no sesame"],
    seconds=75.0,
    usage={"core_hours": 1.5, "cost": 3.0},
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(notify, "_PAUSES_SECONDS", (0.0, 0.01, 0.01, 0.01))


@pytest.fixture
def server():
    """A webhook's server; ``answers`` holds the codes of its next answers, else it says 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.heard.append((self.path, self.headers["Content-Type"], json.loads(body)))
            code = server.answers.pop(0) if server.answers else 200
            if code == 0:
                self.connection.close()
                return
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.heard, server.answers = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/hooks/T0/secret-path?key=abc"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def told(targets, mail=Mail(), redactor=Redactor(), variables=None, notice=NOTICE):  # noqa: B008 - frozen
    lines: list[str] = []
    found = channels(targets, mail, lambda name: (variables or {}).get(name, ""))
    return tell(found, notice, redactor, lines.append), lines


def test_a_webhook_gets_json(server, tmp_path):
    (tmp_path / "hook").write_text(server.url + "\n")
    heard, lines = told([f"file:{tmp_path}/hook"])
    assert (heard, lines) == (1, [])
    [(path, kind, value)] = server.heard
    assert path == "/hooks/T0/secret-path?key=abc"
    assert kind.startswith("application/json")
    assert (value["event"], value["state"], value["run"]) == ("run_ended", "failed", "/runs/é 1")
    assert value["failures"] == ["count: shard 1: no sesame"]
    assert value["jobs"][1]["done"] == 1
    assert value["text"].startswith("lines failed: 1 of 2 jobs complete\n/runs/é 1 on ")
    assert "1.5 core-hours, cost 3.00" in value["text"]
    assert value["usage"]["core_hours"] == 1.5


def test_a_url_in_a_variable_and_secrets_hidden(server):
    assert told(["env:HOOK"], redactor=Redactor(["no sesame"]), variables={"HOOK": server.url})[0] == 1
    assert "no sesame" not in json.dumps(server.heard)
    assert "shard 1: ***" in server.heard[0][2]["text"]


def test_trouble_is_tried_again(server):
    server.answers = [503, 0, 429]
    assert told([server.url]) == (1, [])
    assert len(server.heard) == 4


def test_a_refusal_is_not_tried_again_and_the_url_stays_hidden(server):
    server.answers = [404]
    heard, [line] = told([server.url])
    assert heard == 0
    assert len(server.heard) == 1
    assert line == "not told: webhook of 127.0.0.1: it answers 404 Not Found"


def test_after_a_few_tries_it_gives_up_and_the_others_are_told(server, tmp_path):
    server.answers = [500, 500, 500, 500]
    heard, [line] = told([server.url, server.url.replace("T0", "T1")])
    assert heard == 1
    assert "HTTP Error 500" in line
    assert "(4 tries)" in line
    assert "secret-path" not in line


def test_nobody_listens():
    heard, [line] = told(["http://127.0.0.1:1/x"])
    assert heard == 0
    assert "refused" in line


@pytest.fixture
def sendmail(tmp_path):
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/words"\ncat > "{tmp_path}/mail"\n')
    program.chmod(0o755)
    return program


def test_mail_by_a_program(sendmail, tmp_path):
    mail = Mail(program=str(sendmail), sender="runs@example.org")
    assert told(["mailto:me@example.org"], mail, Redactor(["sesame"])) == (1, [])
    assert (tmp_path / "words").read_text() == "-t -i\n"
    text = (tmp_path / "mail").read_text()
    assert "To: me@example.org\nFrom: runs@example.org\nSubject: [tokenmill] lines failed: 1 of 2" in text
    body = email.message_from_string(text, policy=email.policy.default).get_content()
    assert "count: shard 1: no ***" in body
    assert "upper: complete 9/9" in body


def test_mail_that_does_not_leave(sendmail):
    sendmail.write_text("#!/bin/sh\necho no such user >&2\nexit 67\n")
    heard, [line] = told(["mailto:me@example.org"], Mail(program=str(sendmail)))
    assert heard == 0
    assert "ended with 67: no such user" in line


def test_mail_by_smtp(monkeypatch):
    sent = []

    class Server:
        def __init__(self, host, port, timeout):
            sent.append((host, port))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def send_message(self, message):
            sent.append(message["To"])

    monkeypatch.setattr(notify.smtplib, "SMTP", Server)
    assert told(["mailto:me@example.org"], Mail(smtp_host="mail.example.org", smtp_port=587)) == (1, [])
    assert sent == [("mail.example.org", 587), "me@example.org"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("me@example.org", "unknown way to tell"),
        ("mailto:me", "unknown way to tell"),
        ("file:/nowhere/hook", "cannot be read"),
        ("env:NO_SUCH_VARIABLE", "no URL of a webhook"),
        ("env:SCHEME", "no URL of a webhook"),
        ("mailto:me@example.org", "no program for mail"),
    ],
)
def test_mistakes_are_said_before_a_run_starts(target, message):
    with pytest.raises(ConfigError, match=message) as error:
        channels(
            [target], Mail(program="no-such-program"), lambda name: {"SCHEME": "ftp://x/secret"}.get(name, "")
        )
    assert "secret" not in str(error.value)


def test_many_failures_are_counted():
    notice = Notice(run="r", recipe="x", state="failed", jobs=[], failures=["line"] * 25, seconds=1.0)
    assert notice.text().endswith("line\nand 5 more")
    assert (
        "more" not in Notice(run="r", recipe="x", state="complete", jobs=[], failures=[], seconds=1.0).text()
    )
