"""Codes and pages hold together, and the examples are what is really said."""

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from asya import manifest
from asya.blobs.base import BlobRef, missing
from asya.blobs.folder import FolderBlobs
from asya.cli import app
from asya.codes import TYPES, Code, failure_code
from asya.envelope import HOP_HEADER, HOPS_MAX, Envelope, Route, decode, raw_json
from asya.error_pages import RANGES, Page, pages
from asya.errors import AsyaError, MeshRunning, full_name
from asya.gateway.http.problems import PROBLEM_TYPES, type_of
from asya.gateway.server import bind
from asya.local.broker import find_binary
from asya.local.environment import parse_dotenv, replica_environment
from asya.local.lock import FolderLock
from asya.resiliency import Resiliency
from asya.runtime import loading
from asya.sidecar import decide
from asya.sidecar.outcome import (
    Expired,
    Frame,
    Lost,
    Outcome,
    Raised,
    Returned,
    Undeliverable,
    mismatch,
    timed_out,
    too_large,
)
from asya.tasks.refusals import Kind
from asya.transports.memory.transport import MemoryBroker

HEAD = "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec:\n"
SECRET = "  secretRefs: [{secretName: openai, keys: [{key: key, envVar: OPENAI_API_KEY}]}]\n"
MODEL = """
class Model:
    def __init__(self):
        raise RuntimeError("no model")

    def run(self, payload): ...
"""
NOW = datetime(2026, 11, 23, 18, 25, tzinfo=UTC)

FILES = {
    "ASYA-1103": {"actors.yaml": "actors: [a\nb: 1"},
    "ASYA-1104": {"actors.yaml": "apiVersion: asya.sh/v1\nkind: AsyncActor\n"},
    "ASYA-1105": {"actors.yaml": HEAD + "  handler: a.b\n  scalling: {}\n"},
    "ASYA-1106": {"actors.yaml": HEAD + "  concurrency: 1\n"},
    "ASYA-1107": {"actors.yaml": HEAD + "  handler: a.b\n  concurrency: many\n"},
    "ASYA-1108": {"actors.yaml": (HEAD + "  handler: a.b\n---\n") * 2},
    "ASYA-1109": {"actors.yaml": HEAD + "  handler: a.b\n  replicas: 2\n"},
    "ASYA-1110": {"handlers.py": "def double(payload): return 2 * payload\n"},
    "ASYA-1202": {"asya.yaml": "prot: 1\n"},
}
"""What lies in the folder in which an example's command is given."""


def an_envelope(*route: str) -> Envelope:
    return Envelope("e", Route([], route[0], list(route[1:])), raw_json({}))


def reason_given(send: decide.Send) -> None:
    """Raise what an ending says, under the code of its reason."""
    status = send.envelope.status
    assert status.error is not None
    raise AsyaError(status.error.message, code=failure_code(status.reason, status.error.type))


def decided(envelope: Envelope, outcome: Outcome) -> None:
    """Raise what `decide` says of an outcome with one end."""
    (send,) = decide.decide(envelope, outcome, Resiliency(), NOW, max)
    reason_given(send)


def ended(outcome: Raised) -> None:
    """Raise what an attempt ended with."""
    raise AsyaError(outcome.error.message, code=failure_code(None, outcome.error.type))


def round_and_round() -> None:
    envelope = an_envelope("a", "b")
    envelope.headers[HOP_HEADER] = raw_json(HOPS_MAX)
    decided(envelope, Returned([Frame(raw_json(1))]))


def missing_secret() -> None:
    text = HEAD.replace("name: a", "name: embedder") + "  handler: a.b\n" + SECRET
    Path("actors.yaml").write_text(text)
    (actor,) = manifest.load(["actors.yaml"]).actors
    replica_environment(actor, {}, {}, socket=Path("s"), path=[])


def blobs_in_the_way() -> None:
    Path("blobs").write_text("")
    asyncio.run(FolderBlobs(Path("blobs")).open())


def blob_missing() -> None:
    store = FolderBlobs(Path("blobs"))
    raise missing(BlobRef("5feceb66", 70_000_000, store.name), store)


def load_handler(name: str, code: str = "", file: str = "handlers.py") -> None:
    Path(file).write_text(code)
    try:
        loading.load(name, lambda kind, in_loop: kind())
    except loading.HandlerError as error:
        raise AsyaError(str(error), code=TYPES[full_name(type(error))]) from error


def data_in_the_way() -> None:
    Path("data").write_text("")
    FolderLock(Path("data")).acquire()


def another_mesh() -> None:
    raise MeshRunning(".asya", 4711)


def late() -> None:
    envelope = an_envelope("reranker")
    envelope.status.deadline_at = "2026-11-23T18:25:00.123Z"
    decided(envelope, Expired())


RAISED: dict[str, Callable[[], object]] = {
    "ASYA-1301": another_mesh,
    "ASYA-1304": data_in_the_way,
    "ASYA-1306": lambda: parse_dotenv("just words", ".env"),
    "ASYA-2002": lambda: decode(b'{"id": "e", "payload": 1}'),
    "ASYA-2003": lambda: reason_given(
        decide.reject(mismatch("embedder", "e", "reranker", b""), NOW)
    ),
    "ASYA-2004": lambda: decided(an_envelope("rerankr"), Undeliverable(("reranker",))),
    "ASYA-2007": late,
    "ASYA-1305": missing_secret,
    "ASYA-2008": round_and_round,
    "ASYA-2009": lambda: decided(an_envelope("a"), Lost(5, "SIGKILL")),
    "ASYA-3102": lambda: load_handler("plain"),
    "ASYA-3002": lambda: ended(timed_out("summary", 300, by_deadline=False)),
    "ASYA-3003": lambda: ended(too_large("render", 5 * 2**20, 4 * 2**20)),
    "ASYA-3103": lambda: load_handler("handlrs.double"),
    "ASYA-3104": lambda: load_handler("broken.handle", "import surely_missing\n", "broken.py"),
    "ASYA-3107": lambda: load_handler("handlers.Model.run", MODEL),
    "ASYA-4003": lambda: MemoryBroker().find("default", "asya-default-double"),
    "ASYA-5101": blobs_in_the_way,
    "ASYA-5102": blob_missing,
    "ASYA-3105": lambda: load_handler("handlers.dubble", "def double(payload): ...\n"),
    "ASYA-3106": lambda: load_handler("handlers.add", "def add(a, b): ...\n"),
    "ASYA-4005": lambda: find_binary("no-such-server"),
}
"""Provokes the error of an example that is no command."""


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert list(pages()) == sorted(Code)


def test_every_page_is_in_the_docs() -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors"
    made = {path.stem for path in folder.glob("ASYA-*.md")}
    assert made == set(map(str, Code))


@pytest.mark.parametrize("code", list(Code))
def test_a_page_says_cause_example_and_remedy(code: Code) -> None:
    page = pages()[code]
    assert code[5] in RANGES
    assert len(page.cause) > 20
    assert len(page.remedy) > 20
    assert not page.title.endswith(".")
    assert code in page.example


DOCUMENTS = [
    name for name, kind in PROBLEM_TYPES.items() if pages()[kind.code].example.startswith("{")
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_example_of_a_refusal_is_its_document(name: Kind | str) -> None:
    kind = PROBLEM_TYPES[name]
    document = json.loads(pages()[kind.code].example)
    assert document["type"] == type_of(name)
    assert (document["title"], document["status"]) == (kind.title, kind.status)
    assert document["code"] == kind.code


COMMANDS = [page for page in pages().values() if page.example.startswith("$ asya ")]


@pytest.mark.parametrize("page", COMMANDS, ids=lambda page: page.code)
def test_the_example_of_a_command_is_what_it_prints(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.get(page.code, {}).items():
        (tmp_path / name).write_text(text)
    command, _, said = page.example.partition("\n")

    assert app.run(shlex.split(command)[2:]) != 0

    assert capsys.readouterr().err.replace(f"{tmp_path}/", "").startswith(said)


@pytest.mark.parametrize("code", RAISED)
def test_the_example_is_what_is_really_raised(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.delitem(__import__("sys").modules, "handlers", raising=False)
    with pytest.raises(AsyaError) as raised:
        RAISED[code]()
    said = app.rendered(raised.value).replace(f"{tmp_path.resolve()}/", "")
    assert said.startswith(pages()[Code(code)].example)


def test_a_port_in_use_says_who_has_it() -> None:
    with bind("127.0.0.1", 0) as held, pytest.raises(AsyaError) as raised:
        bind("127.0.0.1", held.getsockname()[1])
    assert raised.value.code is Code.PORT_UNUSABLE
    assert "is in use" in str(raised.value)
