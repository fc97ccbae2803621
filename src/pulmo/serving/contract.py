"""What the OpenAPI document says beyond what signatures can."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pulmo.core.wire import (
    PROBLEM_TYPE,
    Answer,
    Answers,
    Health,
    ManyPictures,
    OnePicture,
    Problem,
    Promotion,
    Rollback,
    Staging,
)
from pulmo.core.wire_v2 import InferRequest

_FAILURES = {
    400: "The body or a picture is broken.",
    401: "No key, or none that is known.",
    403: "The key, or the page that asks, may not ask this.",
    404: "There is no such model, version or alias, or no registry.",
    408: "The body did not arrive in time.",
    409: "Somebody else was first, or tests and history say no; `detail` tells why.",
    413: "The body is too large, or holds too many pictures.",
    415: "The body is of a kind that is not read.",
    422: "The request is well-formed and asks for nothing that can be answered.",
    429: "Asked too often: ask again after `Retry-After` seconds.",
    503: "Too much to do, or no model yet: ask again after `Retry-After` seconds.",
}


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with."""
    return {
        status: {
            "description": _FAILURES[status],
            "content": {PROBLEM_TYPE: {"schema": _reference(Problem)}},
        }
        for status in statuses
    }


def predict() -> dict[str, Any]:
    """Arguments of the route that answers pictures, whose body no parameter describes."""
    binary = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": binary, "minItems": 1, "maxItems": 16}
    form = {"type": "object", "properties": {"file": files}, "required": ["file"]}
    documents = {"oneOf": [_reference(OnePicture), _reference(ManyPictures)]}
    return {
        "responses": {
            200: {
                "description": "One picture's answer, or a list where several were sent.",
                "content": {
                    "application/json": {
                        "schema": {"oneOf": [_reference(Answer), _reference(Answers)]}
                    }
                },
            },
            **failures(400, 404, 408, 413, 415, 422, 503),
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "image/*": {"schema": binary},
                    "application/dicom": {"schema": binary},
                    "multipart/form-data": {"schema": form},
                    "application/json": {"schema": documents},
                },
            }
        },
    }


def access(role: str) -> dict[int | str, dict[str, Any]]:
    """The problems that the guard before a route may answer with."""
    return failures(400) if role == "public" else failures(400, 401, 403, 429)


def security(role: str) -> dict[str, Any]:
    """Whether a route asks for a key, as OpenAPI says it."""
    return {"security": [{"key": []}]} if role in ("predict", "admin") else {}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a JSON body that a route reads itself."""
    content = {"application/json": {"schema": _reference(model)}}
    return {"requestBody": {"required": True, "content": content}}


def unready() -> dict[int | str, dict[str, Any]]:
    """What a route about health answers when something is wrong."""
    return {503: {"model": Health, "description": "Pictures are not answered now."}}


def schemas() -> dict[str, Any]:
    """The schemas that `predict` and `failures` refer to."""
    models: list[type[BaseModel]] = [Answer, Answers, OnePicture, ManyPictures, Problem]
    models += [Staging, Promotion, Rollback, InferRequest]
    _, document = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    definitions: dict[str, Any] = document["$defs"]
    return definitions


def _reference(model: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
