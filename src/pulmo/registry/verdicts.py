"""Verdicts as rows, and the question that guards production: is there a passing one?"""

from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.orm import Session

from pulmo.core.ports import Check, Verdict
from pulmo.errors import RefusedError, RegistryError
from pulmo.registry.versions import now
from pulmo.store.tables import VerdictRow, VersionRow


def add_verdict(session: Session, verdict: Verdict) -> Verdict:
    """Store a verdict. Raises RegistryError where its model digest is not registered."""
    registered = select(VersionRow.id).where(
        VersionRow.name == verdict.name, VersionRow.model_digest == verdict.model_digest
    )
    if session.scalar(registered) is None:
        raise RegistryError(
            f"no version of {verdict.name} has the model digest {verdict.model_digest}: "
            "register the bundle before it is judged"
        )
    row = VerdictRow(
        name=verdict.name,
        model_digest=verdict.model_digest,
        suite_digest=verdict.suite_digest,
        champion_digest=verdict.champion_digest,
        passed=verdict.passed,
        checks=[asdict(check) for check in verdict.checks],
        data_digest=verdict.data_digest,
        details=dict(verdict.details),
        at=now(),
    )
    session.add(row)
    session.flush()
    return _to_verdict(row)


def verdicts_of(session: Session, name: str, model_digest: str | None = None) -> list[Verdict]:
    """Stored verdicts of a model, or of one of its digests, oldest first."""
    query = select(VerdictRow).where(VerdictRow.name == name).order_by(VerdictRow.id)
    if model_digest is not None:
        query = query.where(VerdictRow.model_digest == model_digest)
    return [_to_verdict(row) for row in session.scalars(query)]


def require_passing(
    session: Session, version: VersionRow, champion: VersionRow | None, suite_digest: str
) -> Verdict:
    """The newest verdict on a version beside the present champion, if it passes.

    Raises RefusedError that says what is missing or which checks failed.
    """
    label = f"{version.name}:v{version.number}"
    again = f"test it with `pulmo registry stage {label}`"
    stored = verdicts_of(session, version.name, version.model_digest)
    if not stored:
        raise RefusedError(f"{label} has not been tested: {again}")
    of_suite = [verdict for verdict in stored if verdict.suite_digest == suite_digest]
    if not of_suite:
        raise RefusedError(f"{label} was tested by other tests or limits than today's: {again}")
    digest = None if champion is None else champion.model_digest
    beside = [verdict for verdict in of_suite if verdict.champion_digest == digest]
    if not beside:
        present = "nothing" if champion is None else f"{champion.name}:v{champion.number}"
        raise RefusedError(
            f"{label} was tested beside another champion than {present}, which is in production "
            f"now: {again}"
        )
    newest = beside[-1]
    failed = [check.name for check in newest.checks if not check.passed]
    if failed or not newest.passed or not newest.checks:
        why = f"failed {', '.join(failed)}" if failed else "did not pass"
        raise RefusedError(f"{label} {why} (verdict {newest.id}): production stays as it is")
    return newest


def _to_verdict(row: VerdictRow) -> Verdict:
    return Verdict(
        name=row.name,
        model_digest=row.model_digest,
        suite_digest=row.suite_digest,
        champion_digest=row.champion_digest,
        passed=row.passed,
        checks=tuple(Check(**check) for check in row.checks),
        data_digest=row.data_digest,
        id=row.id,
        at=row.at,
        details=row.details,
    )
