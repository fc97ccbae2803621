"""The GraphQL documents of the installed W&B SDK: of its Python modules and of its core process."""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import wandb
from graphql import GraphQLSyntaxError, OperationDefinitionNode, parse, print_ast

_PYTHON = re.compile(r'"""\s*((?:query|mutation|subscription)\s+\w+.*?)"""', re.DOTALL)
_CORE = re.compile(rb"\n(?:query|mutation|subscription) \w+ ?[({]")
_BRACE = re.compile(rb"[{}]")
_FRAGMENT = re.compile(rb"\s*fragment \w+ on \w+ \{")


class UnlikeError(Exception):
    """A document that is none of the SDK's own."""


def require_known(document: str) -> str:
    """The name of an operation. Raises UnlikeError unless the SDK has this very document."""
    name, plain = normalised(document)
    if plain not in known(name):
        raise UnlikeError(f"{name or 'an operation without a name'} is not the SDK's own")
    return name


def normalised(document: str) -> tuple[str, str]:
    """The name of a document's operation, and the document without what means nothing."""
    try:
        tree = parse(document, no_location=True)
    except GraphQLSyntaxError as error:
        raise UnlikeError(str(error)) from error
    operations = [node for node in tree.definitions if isinstance(node, OperationDefinitionNode)]
    if len(operations) != 1 or operations[0].name is None:
        return "", ""
    return operations[0].name.value, "\n".join(sorted(map(print_ast, tree.definitions)))


@cache
def known(name: str) -> frozenset[str]:
    """The documents of an operation, normalised: some names have several, most have none."""
    found = set()
    for text in documents().get(name, ()):
        with suppress(UnlikeError):  # text that only begins like a document
            found.add(normalised(text)[1])
    return frozenset(found)


@cache
def documents() -> dict[str, list[str]]:
    """Every document by the name of its operation, as it is written."""
    found: dict[str, list[str]] = {}
    package = Path(wandb.__file__).parent
    for text in (*_of_modules(package), *_of_core(package / "bin/wandb-core")):
        found.setdefault(text.split(maxsplit=1)[1].partition("(")[0].split()[0], []).append(text)
    return found


def _of_modules(package: Path) -> Iterator[str]:
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        yield from (match[1] for match in _PYTHON.finditer(text))


def _of_core(binary: Path) -> Iterator[str]:
    """Go keeps its strings one after the other: a document ends where its braces are closed."""
    raw = binary.read_bytes()
    for match in _CORE.finditer(raw):
        end = _closed(raw, match.start())
        while (fragment := _FRAGMENT.match(raw, end)) is not None:
            end = _closed(raw, fragment.end() - 1)
        yield raw[match.start() : end].decode("utf-8", "replace")


def _closed(raw: bytes, start: int) -> int:
    depth = 0
    for brace in _BRACE.finditer(raw, start):
        depth += 1 if brace[0] == b"{" else -1
        if depth == 0:
            return brace.end()
    return len(raw)
