"""Aliases that were moved where the registry is only shown: `staging` asks for tests, no more."""

from collections.abc import Iterator
from dataclasses import dataclass

from pulmo.core.elsewhere import Elsewhere, Seen
from pulmo.core.ports import LATEST, STAGING, Job, ModelRef, Registry, Version
from pulmo.errors import RefusedError
from pulmo.jobs import release


@dataclass(frozen=True)
class Moved:
    """An alias that is at another version elsewhere than in the ledger.

    `asked` is what shall be tested, where `staging` was moved there by other hands.
    """

    alias: str
    told: str
    asked: Seen | None


def take_staged(registry: Registry, elsewhere: Elsewhere, job: Job, actor: str) -> Version | None:
    """Stage here what a job says was staged elsewhere: fetched from there, verified, registered.

    None where `staging` is not there any more, or a move of ours is on its way. Raises
    RefusedError for other bytes than the event named.
    """
    ref = ModelRef.parse(job.payload["ref"])
    untold = elsewhere.untold(ref.name)
    seen = elsewhere.shown(ref.name).get(STAGING)
    if seen is None or STAGING in untold or not _names(job, ref, seen):
        return None
    version = elsewhere.take(seen, ref.name, actor=actor)
    if ref.digest is not None and not version.model_digest.startswith(ref.digest):
        raise RefusedError(
            f"{seen.artifact} is not tested: it holds model {version.model_digest}, the event "
            f"named {ref.digest}"
        )
    reason = f"staged in {elsewhere.name}: {seen.artifact}"
    release.point(registry, version, actor=actor, reason=reason)
    return version


def compare(registry: Registry, elsewhere: Elsewhere, name: str) -> Iterator[Moved]:
    """What is elsewhere not as in the ledger; `latest` is each place's own."""
    ours = {alias: version for version in registry.versions(name) for alias in version.aliases}
    untold, shown = elsewhere.untold(name), elsewhere.shown(name)
    for alias in sorted({*ours, *shown} - {LATEST}):
        here, there = ours.get(alias), shown.get(alias)
        if here and there and here.model_digest == there.model_digest:
            continue
        if alias in untold:
            yield Moved(alias, f"{elsewhere.name} is not told yet: `pulmo hooks deliver`", None)
            continue
        known = f"the ledger says {here.label if here else 'nothing'}"
        told = f"moved in {elsewhere.name} to {there.artifact if there else 'nothing'}, {known}"
        yield Moved(alias, told, there if alias == STAGING else None)


def _names(job: Job, ref: ModelRef, seen: Seen) -> bool:
    """Whether what is seen is what the event told of, by its path or by its digest."""
    told = job.payload["artifact"]
    by_digest = ref.digest is not None and seen.model_digest == ref.digest
    return by_digest or told in (seen.artifact, f"{seen.artifact.rpartition(':')[0]}:{STAGING}")
