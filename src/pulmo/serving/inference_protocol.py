"""The Open Inference Protocol v2: the served model for clients that speak KServe's or Triton's."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Path, Request

from pulmo import __version__
from pulmo.core import wire
from pulmo.core.bundle import sha256
from pulmo.core.preprocess import InputSpec, Pixels
from pulmo.core.wire_v2 import (
    INPUT,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Output,
    Ready,
    Server,
    Tensor,
)
from pulmo.errors import (
    BusyError,
    InvalidError,
    MediaTypeError,
    NotFoundError,
    TooLargeError,
)
from pulmo.serving import bodies, contract
from pulmo.serving.access import Routes
from pulmo.serving.limits import Intake
from pulmo.serving.models import Answered, Model, Seen
from pulmo.serving.pool import Pool
from pulmo.serving.shelf import Shelf
from pulmo.serving.together import Question, Steps
from pulmo.serving.watching import Figures

# Parsed, numbers and lists take far more memory than they are long.
_MOST_NUMBERS = 2**22
_ROOM = 2**16  # for what stands in a body beside the numbers and lists of its pictures
_ALWAYS: tuple[Output, ...] = ("probabilities", "prediction", "decision", "receipt")

Name = Annotated[str, Path(pattern=wire.NAME, description="The served model's.")]
Version = Annotated[str, Path(pattern=wire.VERSION, description="v3, where the key allows it.")]
Reason = Callable[[], str | None]


class _Desk:
    """Finds the model that a path names."""

    def __init__(self, shelf: Shelf, reason: Reason) -> None:
        self._shelf, self._reason = shelf, reason

    async def model(self, request: Request, name: str, version: str | None) -> Model:
        """The served model, or a version of it. Raises NotFoundError, ForbiddenError, BusyError."""
        model = await self._shelf.model(request.state.caller, None, version)
        if name != model.name.name:
            raise NotFoundError(f"this server serves {model.name.name}, not {name}")
        return model

    def require_ready(self) -> None:
        """Raise BusyError where pictures are not answered now."""
        if reason := self._reason():
            raise BusyError(reason)


def add(
    routes: Routes, shelf: Shelf, pool: Pool, intake: Intake, figures: Figures, reason: Reason
) -> None:
    """Add the routes of the protocol; `reason` says why pictures are not answered, if so."""
    desk = _Desk(shelf, reason)
    _add_server(routes, desk)
    _add_models(routes, desk)
    _add_infer(routes, desk, pool, intake, figures)


def _add_server(routes: Routes, desk: _Desk) -> None:
    @routes.get("public", "/v2")
    async def v2_server() -> Server:
        """What speaks here."""
        return Server(name="pulmo", version=__version__)

    @routes.get("public", "/v2/health/live")
    async def v2_live() -> Live:
        """Whether the process answers at all."""
        return Live(live=True)

    @routes.get("public", "/v2/health/ready", responses=contract.failures(503))
    async def v2_ready() -> Ready:
        """Whether pictures are answered."""
        desk.require_ready()
        return Ready(ready=True)


def _add_models(routes: Routes, desk: _Desk) -> None:
    told = contract.failures(404, 422, 503)
    one, exact = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"

    @routes.get("predict", one, responses=told)
    async def v2_model(request: Request, name: Name) -> ModelMetadata:
        """What the model takes and gives."""
        return _metadata(await desk.model(request, name, None))

    @routes.get("predict", exact, responses=told)
    async def v2_version(request: Request, name: Name, version: Version) -> ModelMetadata:
        """What a version of the model takes and gives."""
        return _metadata(await desk.model(request, name, version))

    @routes.get("predict", f"{one}/ready", responses=told)
    async def v2_model_ready(request: Request, name: Name) -> ModelReady:
        """Whether the model answers pictures."""
        desk.require_ready()
        return ModelReady(name=(await desk.model(request, name, None)).name.name, ready=True)

    @routes.get("predict", f"{exact}/ready", responses=told)
    async def v2_version_ready(request: Request, name: Name, version: Version) -> ModelReady:
        """Whether a version of the model answers pictures."""
        desk.require_ready()
        return ModelReady(name=(await desk.model(request, name, version)).name.name, ready=True)


def _add_infer(routes: Routes, desk: _Desk, pool: Pool, intake: Intake, figures: Figures) -> None:
    told: dict[str, Any] = {
        "responses": contract.failures(404, 408, 413, 415, 422, 503),
        "openapi_extra": contract.json_body(InferRequest),
        "response_model_exclude_none": True,
    }

    async def infer(request: Request, name: str, version: str | None) -> InferResponse:
        content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content != "application/json":
            raise MediaTypeError("this takes application/json; tensors in binary are not read")
        pool.require_room()
        model = await desk.model(request, name, version)
        async with intake.body(request) as body:
            told: InferResponse = await pool.run(_work(model, body, figures))
            return told

    @routes.post("predict", "/v2/models/{name}/infer", **told)
    async def v2_infer(request: Request, name: Name) -> InferResponse:
        """Answer pictures: pixels as the graph takes them, or encoded files in base64."""
        return await infer(request, name, None)

    @routes.post("predict", "/v2/models/{name}/versions/{version}/infer", **told)
    async def v2_version_infer(request: Request, name: Name, version: Version) -> InferResponse:
        """Answer pictures by a version of the model."""
        return await infer(request, name, version)


def _metadata(model: Model) -> ModelMetadata:
    spec = model.bundle.info.specification
    classes = len(spec.classes)
    outputs = [
        Tensor(name="probabilities", datatype="FP32", shape=(-1, classes)),
        Tensor(name="prediction", datatype="BYTES", shape=(-1,)),
        Tensor(name="decision", datatype="BYTES", shape=(-1,)),
        Tensor(name="receipt", datatype="BYTES", shape=(-1,)),
    ]
    if "embedding" in spec.outputs:
        outputs.append(Tensor(name="embedding", datatype="FP32", shape=(-1, -1)))
    shape = (-1, spec.input.channels, spec.input.height, spec.input.width)
    return ModelMetadata(
        name=model.name.name,
        versions=() if model.name.version is None else (model.name.version,),
        inputs=(Tensor(name=INPUT, datatype="UINT8", shape=shape),),
        outputs=tuple(outputs),
        parameters=model.name,
    )


def _work(model: Model, body: bytes, figures: Figures) -> Callable[[], Steps[InferResponse]]:
    """From a body to an answer; for a thread, as all of it takes time."""

    def work() -> Steps[InferResponse]:
        begun = time.perf_counter()
        asked = _read(body, model.bundle.info.specification.input)
        given = asked.inputs[0]
        if given.datatype == "UINT8":
            seen = tuple(Seen(one, sha256(one.tobytes())) for one in _pixels(given, model))
        else:
            seen = model.read(_pictures(given), explain=False)
        answered = yield Question(model, seen)
        names = _ALWAYS if asked.outputs is None else tuple(one.name for one in asked.outputs)
        outputs = tuple(_output(name, answered) for name in names)
        figures.note(answered)  # what is answered, not what is refused above
        figures.inference.observe(time.perf_counter() - begun)
        return InferResponse(
            model_name=model.name.name,
            model_version=model.name.version,
            id=asked.id,
            parameters=model.name,
            outputs=outputs,
        )

    return work


def _read(body: bytes, spec: InputSpec) -> InferRequest:
    """A document that holds no more than so many pictures for the model as are answered."""
    lists = wire.MAX_PICTURES * spec.channels * spec.height
    numbers = min(lists * spec.width, _MOST_NUMBERS)
    for sign, most in ((b",", numbers + _ROOM), (b"[", lists + _ROOM), (b"{", 2**8)):
        if body.count(sign) > most:
            raise TooLargeError(f"a document with more than {most:,} '{sign.decode()}' is not read")
    return bodies.document(InferRequest, body)


def _pixels(given: InferInput, model: Model) -> Pixels:
    """The tensor of an input, uint8 [N, C, H, W]. Raises InvalidError."""
    spec = model.bundle.info.specification.input
    count, expected = given.shape[0], (spec.channels, spec.height, spec.width)
    _require_count(count)
    if given.shape[1:] != expected:
        raise InvalidError(f"the shape must be [N, {', '.join(map(str, expected))}]")
    flat: Sequence[Any] = given.data
    try:
        while flat and isinstance(flat[0], list):
            flat = list(itertools.chain.from_iterable(flat))
        raw = bytes(flat)
    except (TypeError, ValueError) as error:
        raise InvalidError("the data must be whole numbers from 0 to 255") from error
    if len(raw) != math.prod(given.shape):
        raise InvalidError(f"the data has {len(raw):,} numbers, which is not what the shape says")
    return np.frombuffer(raw, np.uint8).reshape(given.shape)


def _pictures(given: InferInput) -> list[bytes]:
    """The encoded pictures of an input. Raises InvalidError."""
    if given.shape != (len(given.data),):
        raise InvalidError("the shape of pictures must be [N], and the data N of them")
    _require_count(len(given.data))
    if not all(isinstance(one, str) for one in given.data):
        raise InvalidError("the data of BYTES must be pictures in base64")
    try:
        return [wire.unpack(one) for one in given.data]
    except ValueError as error:
        raise InvalidError(f"the data is not base64: {error}") from error


def _require_count(count: int) -> None:
    if not 1 <= count <= wire.MAX_PICTURES:
        raise InvalidError(f"from 1 to {wire.MAX_PICTURES} pictures are answered in one request")


def _output(name: Output, answered: Sequence[Answered]) -> InferOutput:
    answers = [one.answer for one in answered]
    words: dict[str, list[str]] = {
        "prediction": [one.prediction or "" for one in answers],
        "decision": [one.decision for one in answers],
        "receipt": [one.id for one in answers],
    }
    if name in words:
        return InferOutput(name=name, datatype="BYTES", shape=(len(answers),), data=words[name])
    if name == "probabilities":
        rows = [list(one.probabilities.values()) for one in answers]
    else:
        embeddings = [one.embedding for one in answered if one.embedding is not None]
        if not embeddings:
            raise InvalidError("this model has no output 'embedding'")
        rows = [one.tolist() for one in embeddings]
    flat = [float(value) for row in rows for value in row]
    return InferOutput(name=name, datatype="FP32", shape=(len(rows), len(rows[0])), data=flat)
