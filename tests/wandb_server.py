"""W&B on loopback: what the unmodified SDK and its core process need of it, with real bytes.

It speaks GraphQL, the file stream and uploads; every digest is checked. An operation that is not
one of the installed SDK's own documents is refused and noted (`refused`). Like W&B it gives a
version its number when it is committed, knows equal bytes again, keeps an alias at one version and
tells automations of added aliases.
"""

import base64
import hashlib
import hmac
import http.server
import json
import re
import secrets
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graphql_answers import UnanswerableError, answer
from wandb_documents import UnlikeError, require_known

ENTITY, EMAIL = "clinic", "ada@clinic.example"
KEY = "local-" + "0" * 40
LIMIT = 1000  # names of project and alias are no longer

_VARIABLE = re.compile(r"\$\{([a-z_.]+)\}")


@dataclass
class Run:
    """What was told of a run; `stream` holds the lines of its files, `files` what was uploaded."""

    id: str
    name: str
    project: str
    display: str
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    job_type: str | None = None
    stream: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    finished: bool = False
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows that were logged."""
        return [json.loads(line) for line in self.stream.get("wandb-history.jsonl", [])]


@dataclass
class Version:
    """One version of an artifact; without a number until it is committed."""

    id: str
    digest: str
    metadata: str | None
    description: str | None
    wanted: list[str]
    run: str | None
    number: int | None = None
    manifest: bytes = b""
    files: dict[str, str] = field(default_factory=dict)  # name → place
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat())

    @property
    def contents(self) -> Mapping[str, Any]:
        """The entries of its manifest."""
        return json.loads(self.manifest)["contents"] if self.manifest else {}


@dataclass
class Collection:
    """All versions of one name, and which of them each alias is at."""

    id: str
    name: str
    kind: str
    project: str
    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)  # alias → id

    @property
    def committed(self) -> list[Version]:
        """Versions with a number, in their order."""
        return [version for version in self.versions if version.number is not None]

    def find(self, word: str) -> Version | None:
        """The version of an alias or of `v3`."""
        by_alias = self.aliases.get(word)
        for version in self.committed:
            if version.id == by_alias or f"v{version.number}" == word:
                return version
        return None


@dataclass(frozen=True)
class Automation:
    """A webhook for an alias that is added: its payload holds W&B's variables."""

    alias: str
    url: str
    payload: Mapping[str, Any]
    secret: str
    token: str | None


class Wandb:
    """The state of the server, and what a test asks of it."""

    def __init__(self) -> None:
        self.address, self.project = "", "pulmo"
        self.folder = Path(tempfile.gettempdir())  # what the SDK keeps for itself
        self.runs: dict[str, Run] = {}
        self.collections: dict[tuple[str, str], Collection] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []  # operations that were answered
        self.refused: list[str] = []  # and those that were not
        self.sent: list[tuple[int, str]] = []  # answers of webhooks
        self.automations: list[Automation] = []
        self.protected: set[str] = set()  # aliases that only an administrator moves
        self.lock = threading.RLock()
        self.promised: dict[str, tuple[str, str | None, Any]] = {}  # token → place, MD5, then
        self._ids = 0

    def environment(self) -> dict[str, str]:
        """The variables that lead the SDK here and keep it from everywhere else."""
        return {
            "WANDB_BASE_URL": self.address,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
            "NETRC": str(self.folder / "netrc"),
            **{f"WANDB_{w}_DIR": str(self.folder / w.lower()) for w in ("CACHE", "CONFIG", "DATA")},
        }

    def collection(self, name: str) -> Collection:
        """A collection of the present project."""
        return self.collections[self.project, name]

    def click(self, name: str, alias: str, number: int) -> None:
        """Add an alias as somebody does in W&B's pages."""
        with self.lock:
            collection = self.collection(name)
            version = collection.find(f"v{number}")
            assert version is not None
            collection.aliases[alias] = version.id
        self.tell(collection, version, alias)

    def tell(self, collection: Collection, version: Version, alias: str) -> None:
        """Send the webhooks of automations for an alias, in W&B's documented form."""
        about = json.loads(version.metadata or "{}")
        variables = {
            "event_type": "ADD_ARTIFACT_ALIAS",
            "event_author": "ada",
            "alias": alias,
            "artifact_version": f"wandb-artifact://_id/{version.id}",
            "artifact_version_string": f"{ENTITY}/{collection.project}/{collection.name}"
            f":v{version.number}",
            "artifact_collection_name": collection.name,
            "project_name": collection.project,
            "entity_name": ENTITY,
            **{f"artifact_metadata.{key}": str(value) for key, value in about.items()},
        }

        def value(match: re.Match[str]) -> str:
            return json.dumps(variables.get(match[1], ""))[1:-1]

        for one in self.automations:
            if one.alias != alias:
                continue
            body = _VARIABLE.sub(value, json.dumps(one.payload)).encode()
            mac = hmac.new(one.secret.encode(), body, hashlib.sha256).digest()
            headers = {
                "Content-Type": "application/json",
                "X-Wandb-Signature": base64.b64encode(mac).decode(),
                **({"Authorization": f"Bearer {one.token}"} if one.token else {}),
            }
            request = urllib.request.Request(one.url, body, headers)
            try:
                with urllib.request.urlopen(request, timeout=30) as told:
                    self.sent.append((told.status, told.read().decode()))
            except urllib.error.HTTPError as error:
                with error:
                    self.sent.append((error.code, error.read().decode()))

    def new_id(self, kind: str) -> str:
        """An opaque id, as W&B's are."""
        self._ids += 1
        return base64.b64encode(f"{kind}:{self._ids}".encode()).decode()

    def promise(self, place: str, md5: str | None, then: Any = None) -> str:
        """A URL to which bytes may be put, once it is known which MD5 they must have."""
        token = secrets.token_urlsafe(12)
        self.promised[token] = (place, md5, then)
        return f"{self.address}/upload/{token}"

    def url(self, place: str) -> str:
        """A URL that gives stored bytes to whoever has it."""
        token = secrets.token_urlsafe(12)
        self.promised[token] = (place, None, None)
        return f"{self.address}/download/{token}"


@contextmanager
def wandb_server() -> Iterator[Wandb]:
    """A server on a free port of this machine, stopped at the end."""
    state = Wandb()
    handler = type("Handler", (_Handler,), {"state": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Wandb

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._known():
            self._json({"errors": [{"message": "user is not logged in"}]}, 401)
        elif self.path == "/graphql":
            self._graphql(json.loads(body))
        elif (match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)) is None:
            self._refuse(f"POST {self.path}", 404)
        elif match[1] not in self.state.runs:
            self._json({"error": "no such run"}, 404)
        else:
            self._stream(self.state.runs[match[1]], json.loads(body))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        place, md5, then = self.state.promised.pop(self.path.rpartition("/")[2], ("", None, None))
        if not place:
            self._refuse(f"PUT {self.path}", 403)
            return
        if md5 is not None and base64.b64encode(hashlib.md5(body).digest()).decode() != md5:
            self._refuse(f"bytes of {place} with another MD5", 400)
            return
        with self.state.lock:
            self.state.blobs[place] = body
            if then is not None:
                then(body)
        self._bytes(b"", 200)

    def do_GET(self) -> None:
        place, _, _ = self.state.promised.get(self.path.rpartition("/")[2], ("", None, None))
        if self.path.startswith("/download/") and place in self.state.blobs:
            self._bytes(self.state.blobs[place], 200)
        else:
            self._refuse(f"GET {self.path}", 404)

    def _graphql(self, asked: Mapping[str, Any]) -> None:
        from wandb_graph import root

        state = self.state
        try:
            name = require_known(asked["query"])
            with state.lock:
                after: list[Any] = []
                told = answer(asked["query"], asked.get("variables") or {}, root(state, after))
        except (UnlikeError, UnanswerableError) as error:
            self._refuse(str(error), 400)
            return
        except PermissionError as error:
            self._json({"errors": [{"message": str(error)}], "data": None}, 403)
            return
        state.asked.append(name)
        for then in after:
            then()
        self._json({"data": told})

    def _stream(self, run: Run, told: Mapping[str, Any]) -> None:
        with self.state.lock:
            for name, chunk in (told.get("files") or {}).items():
                lines = run.stream.setdefault(name, [])
                lines[chunk.get("offset", 0) :] = chunk.get("content", [])
            if told.get("complete"):
                run.finished, run.exit_code = True, told.get("exitcode")
            summary = run.stream.get("wandb-summary.json")
            if summary:
                run.summary = json.loads(summary[-1])
        self._json({"exitcode": None, "limits": {}})

    def _known(self) -> bool:
        scheme, _, word = self.headers.get("Authorization", "").partition(" ")
        wanted = {"Basic": base64.b64encode(f"api:{KEY}".encode()).decode(), "Bearer": KEY}
        return word == wanted.get(scheme)

    def _refuse(self, what: str, status: int) -> None:
        self.state.refused.append(what)
        self._json({"errors": [{"message": what}]}, status)

    def _json(self, document: Any, status: int = 200) -> None:
        self._bytes(json.dumps(document).encode(), status, "application/json")

    def _bytes(self, body: bytes, status: int, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is said of requests."""
