"""Another place that shows a registry's models and aliases, where other hands may move them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pulmo.core.ports import Version


@dataclass(frozen=True)
class Seen:
    """What an alias is at elsewhere: `artifact` is how that place writes it, and the model digest
    is what it claims, None where it claims nothing.
    """

    alias: str
    artifact: str
    model_digest: str | None


class Elsewhere(Protocol):
    """The other place. Every method raises RegistryError where it cannot be asked."""

    name: str  # for people

    def shown(self, name: str) -> Mapping[str, Seen]:
        """Every alias of a model there; none for a model that is not there."""

    def untold(self, name: str) -> frozenset[str]:
        """Aliases whose last moves here have not arrived there yet."""

    def take(self, seen: Seen, name: str, *, actor: str) -> Version:
        """Fetch what is there, verify it and register it; what is known keeps its version.

        Raises ModelError where that is no bundle of this model or not the one that it claims to be.
        """
