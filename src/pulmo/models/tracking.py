"""A run told to W&B or MLflow through Lightning's loggers; what fails there ends no training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pytorch_lightning.loggers import Logger

from pulmo.config.settings import shown
from pulmo.logs import get_logger

log = get_logger(__name__)

GIVEN_UP = 3  # faults at the end of a run, after which the rest is not tried


class Service(Protocol):
    """Where runs are told: a thin layer over one of Lightning's loggers. Any call may fail."""

    name: str  # as people say it
    kind: str  # as `tracking=` says it

    def open(self, folder: Path, known: str | None) -> None:
        """Begin the run of a run's folder, or go on with the one that is `known` by its id."""

    @property
    def id(self) -> str | None:
        """The service's name for the run, None before `open`."""

    @property
    def where(self) -> str | None:
        """An address to look at, or the command that sends what was kept; None before `open`."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Nested values that describe the run."""

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """Measured values."""

    def picture(self, name: str, png: bytes) -> None:
        """A plot."""

    def text(self, name: str, text: str) -> None:
        """A small file."""

    def close(self, status: str) -> None:
        """End the run as `done`, `stopped` or `failed`; all of it is sent when this returns."""


class Tracker(Logger):
    """A logger for Lightning's trainer that waits for nobody and raises nothing.

    What a service did not take is kept, in order, and tried once more when the run ends; what it
    does not take then either is told. One tracker serves one run after the other.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._unsent: list[tuple[str, Callable[[], None]]] = []

    @property
    def kind(self) -> str:
        """What `tracking=` was."""
        return self._service.kind

    @property
    def name(self) -> str:
        """The service."""
        return self._service.name

    @property
    def version(self) -> str | None:
        """The service's id of the run."""
        return self._service.id

    @property
    def where(self) -> str | None:
        """Where the run can be seen, or the command that sends what was kept; no password in it."""
        found = self._service.where
        return None if found is None else shown(found)

    def begin(self, folder: Path, known: str | None, values: Mapping[str, Any]) -> None:
        """Open the run of `folder` (its id is `known` if it was open before) and describe it."""
        self._unsent.clear()
        self._send("the run", lambda: self._service.open(folder, known))
        if known is None:  # a run goes on as it was begun
            self.configure(values)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Tell nested values that describe the run."""
        self._send("its configuration", lambda: self._service.configure(values))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tell measured values; Lightning calls this once an epoch."""
        values = dict(metrics)
        self._send("metrics", lambda: self._service.metrics(values, step))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: `begin` tells the whole configuration."""

    def picture(self, name: str, png: bytes) -> None:
        """Tell a plot."""
        self._send("plots", lambda: self._service.picture(name, png))

    def text(self, name: str, text: str) -> None:
        """Tell a small file."""
        self._send(name, lambda: self._service.text(name, text))

    def finish(self, status: str) -> None:
        """End the run; `status` is what `run.json` says."""
        missed: list[str] = []
        for what, call in [*self._unsent, ("its end", lambda: self._service.close(status))]:
            if len(missed) >= GIVEN_UP or self._fails(what, call):
                missed.append(what)
        self._unsent.clear()
        if missed:
            what = ", ".join(dict.fromkeys(missed))
            log.warning("not told to %s: %s; the run's folder has all of it", self.name, what)

    def _send(self, what: str, call: Callable[[], None]) -> None:
        # In order, or not at all: nobody waits for the same fault twice.
        if self._unsent or self._fails(what, call):
            self._unsent.append((what, call))

    def _fails(self, what: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a service's fault of any kind ends no training
            told = shown(" ".join(str(error).split()) or type(error).__name__)
            log.warning("%s did not take %s (%s)", self.name, what, told)
            return True
        return False
