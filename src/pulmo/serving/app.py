"""The application: routes over one model that may be replaced while it serves."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from pulmo import __version__
from pulmo.config.settings import Settings
from pulmo.core import wire
from pulmo.core.wire import Answers, Health
from pulmo.serving import (
    bodies,
    contract,
    document,
    inference_protocol,
    problems,
    registry_routes,
    together,
)
from pulmo.serving.access import CORS, Guard, Routes, words
from pulmo.serving.express import Lane
from pulmo.serving.keyring import Keyring
from pulmo.serving.life import life
from pulmo.serving.limits import Intake, Limits
from pulmo.serving.models import Model, Present
from pulmo.serving.pool import Pool
from pulmo.serving.receipts import Receipts
from pulmo.serving.registry_routes import Desk
from pulmo.serving.shelf import Shelf
from pulmo.serving.together import Question, Steps
from pulmo.serving.watching import Draining, Figures, Watch, Watched
from pulmo.serving.webhooks import Receiver

WAITED_FOR = (
    "no model is there yet: once one is in production (`pulmo train --stage`) it is taken over; "
    "the server's log says what was looked for"
)

Explain = Annotated[bool, Query(description="Also return heat maps.")]
Alias = Annotated[
    str | None, Query(description="Another version, where the key allows it.", pattern=wire.ALIAS)
]
Version = Annotated[
    str | None, Query(description="As `alias`, by number: v3.", pattern=wire.VERSION)
]


class Application(FastAPI):
    """FastAPI whose outermost layer is its first middleware.

    `Watched` gives every failure its answer, so the layers that FastAPI would put before it, for
    server errors and their telemetry, would only take time.
    """

    def build_middleware_stack(self) -> ASGIApp:
        """All that stands before the router."""
        inner = AsyncExitStackMiddleware(self.router)
        stack: ASGIApp = ExceptionMiddleware(inner, handlers=self.exception_handlers)
        for layer, arguments, options in reversed(self.user_middleware):
            stack = layer(stack, *arguments, **options)
        return stack


def create_app(
    settings: Settings,
    present: Present,
    limits: Limits | None = None,
    hosts: frozenset[str] | None = None,
    receipts: Receipts | None = None,
    receiver: Receiver | None = None,
    desk: Desk | None = None,
) -> FastAPI:
    """An application that answers with the model of `present` whoever the settings let in.

    The model is loaded when the application starts, unless it is there, and followed until it
    ends. With `hosts`, requests whose header Host names another one are refused. With `receipts`
    every answer gets one, and what waits at the end is written, within their bound. With
    `receiver` webhooks are taken, and with a `desk` the registry can be asked.
    `app.state.lane` is for its connections; its `watch.draining.begun` makes it not ready and
    asks clients to close their connections.
    """
    chosen = limits or Limits()
    pool, draining, keyring = Pool(chosen, together.answer), Draining(), Keyring(settings)
    figures = Figures(present, pool, receipts)
    side = Pool(Limits(workers=2, waiting=16))  # for what waits for databases
    app = Application(
        title="Pulmo",
        version=__version__,
        description="Answers for pictures, by a model that has passed its tests.",
        lifespan=life(present, keyring, receipts, (pool, side)),
        redirect_slashes=False,
        openapi_url=None,  # its routes would stand before no guard
        generate_unique_id_function=lambda route: route.name,
    )
    watch, guard, intake = Watch(figures, draining, hosts), Guard(settings, keyring), Intake(chosen)
    work = partial(_answer, explain=False, figures=figures)
    app.state.lane = Lane(watch, guard, present, intake, pool, work)
    problems.install(app)
    routes, reason = Routes(app, guard), _reason(present, pool, draining)
    shelf = Shelf(present, None if desk is None else desk.registry, side)
    _add_predict(routes, shelf, pool, intake, figures)
    _add_health(routes, present, reason)
    _add_model(routes, present)
    _add_metrics(routes, figures)
    if receiver is not None:
        receiver.add(routes)
    inference_protocol.add(routes, shelf, pool, intake, figures, reason)
    registry_routes.add(routes, desk, present, side)
    document.add(app, routes)
    if origins := words(settings.cors_origins):
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS)
    app.add_middleware(Watched, watch=watch)
    return app


class Markdown(Response):
    """Text that no browser shows as a page."""

    media_type = "text/markdown"


def _add_predict(
    routes: Routes, shelf: Shelf, pool: Pool, intake: Intake, figures: Figures
) -> None:
    @routes.post("predict", "/predict", **contract.predict())
    async def predict(
        request: Request, explain: Explain = False, alias: Alias = None, version: Version = None
    ) -> Response:
        """Answer one picture, or up to 16."""
        content_type = request.headers.get("content-type", "")
        bodies.require_readable(content_type, request.headers.get("content-encoding", ""))
        pool.require_room()  # said before the body is read
        model = await shelf.model(request.state.caller, alias, version)
        async with intake.body(request) as body:
            work = partial(_answer, model, body, content_type, explain, figures)
            return Response(await pool.run(work), media_type="application/json")


def _answer(
    model: Model, body: bytes, content_type: str, explain: bool, figures: Figures
) -> Steps[bytes]:
    """From a body to an answer as JSON; for a thread, as all of it takes time."""
    begun = time.perf_counter()
    pictures = bodies.pictures(body, content_type)
    answered = yield Question(model, model.read(pictures.encoded, explain=explain))
    figures.note(answered)
    answers = tuple(one.answer for one in answered)
    figures.inference.observe(time.perf_counter() - begun)
    told = Answers(answers=answers) if pictures.many else answers[0]
    return told.model_dump_json(exclude_unset=True).encode()


def _reason(present: Present, pool: Pool, draining: Draining) -> Callable[[], str | None]:
    """Why pictures are not answered now, asked anew each time."""

    def reason() -> str | None:
        if not present.ready:
            return WAITED_FOR if present.waits else "no model is loaded yet"
        if draining.begun:
            return "the server is about to end"
        return "too many requests are waiting" if pool.full else None

    return reason


def _add_health(routes: Routes, present: Present, reason: Callable[[], str | None]) -> None:
    async def health(response: Response) -> Health:
        """Whether pictures are answered, by which model, and if not why."""
        because = reason()
        if because is not None:
            response.status_code = 503
            response.headers["Retry-After"] = str(problems.RETRY_SECONDS)
        name = present.model.name if present.ready else None
        return Health(status="unavailable" if because else "ok", model=name, reason=because)

    @routes.head("public", "/livez")
    @routes.get("public", "/livez")
    async def livez() -> Health:
        """Whether the process answers at all."""
        return Health(status="ok")

    for path in ("/health", "/readyz"):
        routes.get("public", path, name=path[1:], responses=contract.unready())(health)
        routes.head("public", path)(health)


def _add_model(routes: Routes, present: Present) -> None:
    @routes.get("predict", "/model/info", responses=contract.failures(503))
    async def info() -> dict[str, Any]:
        """What the model is, how well it does, and where it comes from."""
        model = present.model
        told = model.bundle.info.model_dump(mode="json", include={"specification", "metrics"})
        hidden = {"configuration", "machine"}  # they may name places and people
        lineage = model.bundle.info.lineage.model_dump(mode="json", exclude=hidden)
        name = model.name.model_dump()
        return {"model": name, "bundle_digest": model.bundle.digest, **told, "lineage": lineage}

    @routes.get("predict", "/model/card", response_class=Markdown, responses=contract.failures(503))
    async def card() -> Response:
        """The model card, as Markdown."""
        return Markdown(present.model.card)

    @routes.get("predict", "/model/curves", responses=contract.failures(503))
    async def curves() -> dict[str, dict[str, list[float]]]:
        """Curves of the model's measurement, as named lists of points."""
        return present.model.bundle.info.curves


def _add_metrics(routes: Routes, figures: Figures) -> None:
    @routes.get("predict", "/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)
