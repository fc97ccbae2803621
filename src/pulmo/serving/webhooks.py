"""What others may ask by webhook: proved by a signature over raw bytes, enqueued once, told 202."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request, Response

from pulmo.config.hooks import HookSettings, plain
from pulmo.core import signatures
from pulmo.core.events import Asked, asked_by_github, asked_by_pulmo, asked_by_wandb
from pulmo.core.ports import JobQueue
from pulmo.serving import contract
from pulmo.serving.access import Routes
from pulmo.serving.limits import Intake, Limits
from pulmo.serving.pool import Pool

BODY_BYTES = 256 * 1024  # GitHub's own events about a repository are the largest
LIMITS = Limits(body_bytes=BODY_BYTES, memory_bytes=16 * BODY_BYTES, waiting=64, deadline_s=8.0)

_DESCRIBED: dict[str, Any] = {
    "responses": {
        202: {"description": "Taken: queued, known already, or nothing that is done here."},
        **contract.failures(400, 401, 408, 413, 422, 503),
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}
    },
}

Read = Callable[[Mapping[str, str], bytes], Asked | None]


class Receiver:
    """Webhooks of those whose secret is known; there is no route for anyone else."""

    def __init__(
        self, queue: JobQueue, chosen: HookSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._queue, self._chosen, self._clock = queue, chosen, clock
        self._intake, self._pool = Intake(LIMITS), Pool(LIMITS)
        senders: dict[str, tuple[bool, Read]] = {
            "pulmo": (bool(chosen.secret), self._pulmo),
            "github": (bool(chosen.github_secret), self._github),
            "wandb": (bool(chosen.wandb_secret), self._wandb),
        }
        self._senders = {name: read for name, (known, read) in senders.items() if known}

    def __bool__(self) -> bool:
        """Whether anyone may ask."""
        return bool(self._senders)

    def add(self, routes: Routes) -> None:
        """Add a route for each sender."""
        for name, read in self._senders.items():
            self._add(routes, name, read)

    def _add(self, routes: Routes, name: str, read: Read) -> None:
        @routes.post(
            "signed", f"/webhooks/{name}", name=f"webhook_{name}", status_code=202, **_DESCRIBED
        )
        async def receive(request: Request) -> Response:
            """Take an event; what it asks for is done later, once."""
            self._pool.require_room()
            async with self._intake.body(request) as body:
                asked = read(request.headers, body)
                told = await self._pool.run(lambda: self._enqueue(asked))
            return Response(json.dumps(told), 202, media_type="application/json")

    def _enqueue(self, asked: Asked | None) -> dict[str, str]:
        if asked is None:
            return {"status": "ignored"}
        job, new = self._queue.enqueue(asked.key, asked.ref.name, asked.payload)
        return {"status": "queued" if new else "known", "job": job.key}

    def _pulmo(self, headers: Mapping[str, str], body: bytes) -> Asked | None:
        signatures.verify(plain(self._chosen.secret), headers, body, self._clock())
        return asked_by_pulmo(body)

    def _github(self, headers: Mapping[str, str], body: bytes) -> Asked | None:
        signatures.verify_github(plain(self._chosen.github_secret), headers, body)
        return asked_by_github(headers.get("x-github-event", ""), body)

    def _wandb(self, headers: Mapping[str, str], body: bytes) -> Asked | None:
        tokens = plain(self._chosen.wandb_token)
        signatures.verify_wandb(plain(self._chosen.wandb_secret), headers, body, tokens)
        return asked_by_wandb(body)
