"""The interface, described: the OpenAPI document, and a page for people that loads nothing."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from fastapi import FastAPI, Response

from pulmo.serving import contract
from pulmo.serving.access import Routes

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color: #1a1f24; background: #fff }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em }
pre { background: #f2f4f6; padding: 0.8rem; overflow-x: auto }
summary { cursor: pointer; padding: 0.3rem 0 } summary code { font-weight: 600 }
table { border-collapse: collapse } td, th { text-align: left; padding: 0.15rem 1.2rem 0.15rem 0;
  vertical-align: top } .key { color: #8a4b00 }
@media (prefers-color-scheme: dark) { body { color: #dde3e8; background: #14181c }
  pre { background: #20262c } .key { color: #f0b060 } }
"""
_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_EXAMPLE = (
    "curl -H 'Authorization: Bearer KEY' -H 'Content-Type: image/png' "
    "--data-binary @picture.png ADDRESS/predict"
)


def add(app: FastAPI, routes: Routes) -> None:
    """Routes for the document and its page; to be called after all other routes are there."""
    document = completed(app.openapi)
    app.openapi = document  # type: ignore[method-assign]

    @routes.get("public", "/openapi.json", include_in_schema=False)
    async def interface() -> dict[str, Any]:
        """The interface, for programs."""
        return document()

    @routes.get("public", "/docs", include_in_schema=False)
    async def docs() -> Response:
        """The interface, for people."""
        head = {"Content-Security-Policy": POLICY}
        return Response(page(document()), media_type="text/html", headers=head)


def completed(plain: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """FastAPI's document with what routes say of keys and of bodies that they read themselves."""

    def document() -> dict[str, Any]:
        told = plain()
        components = told.setdefault("components", {})
        for name, schema in contract.schemas().items():
            components.setdefault("schemas", {}).setdefault(name, schema)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return told

    return document


def page(document: dict[str, Any]) -> str:
    """An OpenAPI document as one HTML page without a script."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{escape(info['description'])}</p><pre>{escape(_EXAMPLE)}</pre>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>. '
    yield 'A route with <span class="key">key</span> asks for a key where keys are in use.</p>'
    yield "<h2>Routes</h2>"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _operation(method.upper(), path, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        yield f"<details><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>"
    yield "</body></html>"


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    key = ' <span class="key">key</span>' if operation.get("security") else ""
    said = escape(operation.get("description", operation.get("summary", "")))
    yield f"<details><summary><code>{method} {escape(path)}</code>{key} {said}</summary><table>"
    for one in operation.get("parameters", []):
        told = one.get("description", "")
        yield _row(f"{one['in']} {one['name']}", told)
    for kind in operation.get("requestBody", {}).get("content", {}):
        yield _row("body", kind)
    for status, answer in operation["responses"].items():
        kinds = ", ".join(answer.get("content", {}))
        yield _row(status, f"{answer['description']} {kinds}")
    yield "</table></details>"


def _row(head: str, text: str) -> str:
    return f"<tr><th>{escape(head)}</th><td>{escape(text)}</td></tr>"
