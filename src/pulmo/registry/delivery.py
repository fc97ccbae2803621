"""The sender: takes events out of the outbox and hands them to their targets."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from pulmo.logs import get_logger
from pulmo.registry.outbox import Delivery, Outbox
from pulmo.registry.outward import TIMEOUT_S
from pulmo.registry.targets import Target, UndeliveredError

log = get_logger(__name__)


@dataclass(frozen=True)
class Tally:
    """What one round of deliveries came to."""

    arrived: int = 0
    failed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.arrived + other.arrived, self.failed + other.failed)


class Sender:
    """Delivers at least once, in order for each model and target; several may run at once."""

    def __init__(
        self, outbox: Outbox, targets: Sequence[Target], lease_s: float = 2 * TIMEOUT_S
    ) -> None:
        self._outbox, self._targets, self._lease_s = outbox, targets, lease_s

    def deliver(self, only: str | None = None) -> Tally:
        """Send all that is due, targets side by side; `only` names one of them."""
        self._outbox.route([target.name for target in self._targets])
        chosen = [target for target in self._targets if only in (None, target.name)]
        with ThreadPoolExecutor(max(len(chosen), 1), "deliver") as pool:
            return sum(pool.map(self._drain, chosen), Tally())

    def next_due(self) -> datetime | None:
        """When there is something to send again, None where nothing waits."""
        return self._outbox.next_due([target.name for target in self._targets])

    def deliveries(self, *, everything: bool = False) -> list[Delivery]:
        """What has not arrived, or everything, in order."""
        return self._outbox.deliveries(everything=everything)

    def resend(self, event: str | None = None) -> int:
        """Let a dead event, or all of them, be sent again."""
        return self._outbox.resend(event)

    def _drain(self, target: Target) -> Tally:
        tally = Tally()
        while (parcel := self._outbox.claim(target.name, self._lease_s)) is not None:
            try:
                target.send(parcel.event)
            except UndeliveredError as error:
                self._outbox.failed(parcel, str(error), final=error.final, wait_s=error.wait_s)
                log.warning("%s did not take %s: %s", target.name, parcel.event.id, error)
                tally += Tally(failed=1)
            else:
                self._outbox.arrived(parcel)
                tally += Tally(arrived=1)
        return tally
