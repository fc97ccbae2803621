"""Answers to a GraphQL document from plain values: what was asked for, and nothing else.

A node is a dictionary; a value that is a function is called with the field's arguments.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    Undefined,
    parse,
    value_from_ast_untyped,
)

Node = Mapping[str, Any]


class UnanswerableError(Exception):
    """A field that these values do not have."""


def answer(document: str, variables: Mapping[str, Any], root: Node) -> dict[str, Any]:
    """The `data` of a document with one operation. Raises UnanswerableError."""
    tree = parse(document, no_location=True)
    (operation,) = (one for one in tree.definitions if isinstance(one, OperationDefinitionNode))
    fragments = {
        one.name.value: one for one in tree.definitions if isinstance(one, FragmentDefinitionNode)
    }
    given = {
        one.variable.name.value: value_from_ast_untyped(one.default_value)
        for one in operation.variable_definitions or ()
        if one.default_value is not None
    }
    return _Answering({**given, **variables}, fragments).select(operation.selection_set, root)


class _Answering:
    def __init__(
        self, variables: dict[str, Any], fragments: Mapping[str, FragmentDefinitionNode]
    ) -> None:
        self._variables, self._fragments = variables, fragments

    def select(self, wanted: SelectionSetNode, node: Node) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for field in self._fields(wanted, node):
            name = field.name.value
            if name not in node:
                kind = node.get("__typename", "a node")
                raise UnanswerableError(f'Cannot query field "{name}" on type "{kind}".')
            value = node[name]
            if callable(value):
                given = {one.name.value: self._value(one.value) for one in field.arguments or ()}
                value = value(**_defined(given))
            key = field.alias.value if field.alias else name
            told[key] = _merged(told.get(key), self._shaped(field, value))
        return told

    def _fields(self, wanted: SelectionSetNode, node: Node) -> Iterator[FieldNode]:
        for one in wanted.selections:
            if not self._included(one):
                continue
            if isinstance(one, FieldNode):
                yield one
                continue
            kind: Any = one
            if isinstance(one, FragmentSpreadNode):
                kind = self._fragments[one.name.value]
            assert isinstance(kind, FragmentDefinitionNode | InlineFragmentNode)
            condition = kind.type_condition.name.value if kind.type_condition else None
            if condition is None or condition in _kinds(node, condition):
                yield from self._fields(kind.selection_set, node)

    def _included(self, one: Any) -> bool:
        for directive in one.directives or ():
            (argument,) = directive.arguments
            if bool(self._value(argument.value)) != (directive.name.value == "include"):
                return False
        return True

    def _shaped(self, field: FieldNode, value: Any) -> Any:
        if field.selection_set is None or value is None:
            return value
        if isinstance(value, list):
            return [self._shaped(field, one) for one in value]
        return self.select(field.selection_set, value)

    def _value(self, node: Any) -> Any:
        return value_from_ast_untyped(node, self._variables)


def _defined(value: Any) -> Any:
    """Without variables that were not given."""
    if not isinstance(value, dict):
        return value
    return {key: _defined(one) for key, one in value.items() if one is not Undefined}


def _kinds(node: Node, otherwise: str) -> tuple[str, ...]:
    kind = node.get("__typename", otherwise)
    collection = kind in ("ArtifactSequence", "ArtifactPortfolio")
    return (kind, "ArtifactCollection") if collection else (kind,)


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {key: _merged(old.get(key), new.get(key, old.get(key))) for key in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        return [_merged(one, other) for one, other in zip(old, new, strict=True)]
    return new
