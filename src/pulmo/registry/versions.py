"""Versions as rows: counted, found by reference, described with their aliases."""

import math
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pulmo.core.bundle import Bundle
from pulmo.core.ports import ModelRef, Version
from pulmo.errors import NotFoundError
from pulmo.store.tables import AliasRow, LineageRow, ModelRow, VersionRow


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def require_model(session: Session, name: str) -> ModelRow:
    """The model's row. Raises NotFoundError."""
    return _found(session.get(ModelRow, name), session, name)


def lock_model(session: Session, name: str) -> ModelRow:
    """The model's row, held until the transaction ends: writers of one model take turns."""
    query = select(ModelRow).where(ModelRow.name == name).with_for_update()
    # What was read before the lock was given may be out of date by now.
    row = session.scalar(query, execution_options={"populate_existing": True})
    return _found(row, session, name)


def model_names(session: Session) -> list[str]:
    """Every model, sorted."""
    return sorted(session.scalars(select(ModelRow.name)))


def add_version(session: Session, bundle: Bundle, actor: str) -> tuple[VersionRow, bool]:
    """The version of a bundle and whether it is new; its lineage is kept once a bundle digest."""
    info = bundle.info
    _add_model(session, info.name)
    model = lock_model(session, info.name)
    _add_lineage(session, bundle, actor)
    known = session.scalar(
        select(VersionRow).where(
            VersionRow.name == info.name, VersionRow.model_digest == info.model_digest
        )
    )
    if known is not None:
        return known, False
    row = VersionRow(
        name=info.name,
        number=model.next_number,
        model_digest=info.model_digest,
        bundle_digest=bundle.digest,
        score=info.score if math.isfinite(info.score) else None,
        metric=info.score_metric,
        created_at=now(),
        created_by=actor,
    )
    model.next_number += 1
    session.add(row)
    session.flush()
    return row, True


def find_version(session: Session, ref: ModelRef) -> VersionRow:
    """The row that a reference points at. Raises NotFoundError, also for an ambiguous digest."""
    if ref.digest is not None:
        return _find_digest(session, ref.name, ref.digest)
    if ref.version is not None:
        return require_version(session, ref.name, ref.version)
    require_model(session, ref.name)
    number = session.scalar(
        select(AliasRow.number).where(AliasRow.name == ref.name, AliasRow.alias == ref.alias)
    )
    if number is None:
        raise NotFoundError(
            f"nothing is at {ref}: `pulmo registry show {ref.name}` lists versions and aliases"
        )
    return require_version(session, ref.name, number)


def require_version(session: Session, name: str, number: int) -> VersionRow:
    """The row of a version. Raises NotFoundError."""
    rows = _where(session, name, VersionRow.number == number)
    if not rows:
        raise NotFoundError(
            f"there is no {name}:v{number}: `pulmo registry show {name}` lists its versions"
        )
    return rows[0]


def describe(session: Session, rows: list[VersionRow]) -> list[Version]:
    """Rows of one model as values, each with its aliases, sorted."""
    pointing: dict[int, list[str]] = {}
    names = {row.name for row in rows}
    for alias in session.scalars(select(AliasRow).where(AliasRow.name.in_(names))):
        pointing.setdefault(alias.number, []).append(alias.alias)
    return [
        Version(
            name=row.name,
            number=row.number,
            model_digest=row.model_digest,
            bundle_digest=row.bundle_digest,
            score=-math.inf if row.score is None else row.score,
            metric=row.metric,
            created_at=row.created_at,
            created_by=row.created_by,
            aliases=tuple(sorted(pointing.get(row.number, ()))),
        )
        for row in rows
    ]


def all_versions(session: Session, name: str) -> list[VersionRow]:
    """Every version of a model, oldest first. Raises NotFoundError where there is no model."""
    require_model(session, name)
    return list(
        session.scalars(
            select(VersionRow).where(VersionRow.name == name).order_by(VersionRow.number)
        )
    )


def _where(session: Session, name: str, condition: ColumnElement[bool]) -> list[VersionRow]:
    require_model(session, name)
    return list(session.scalars(select(VersionRow).where(VersionRow.name == name, condition)))


def _find_digest(session: Session, name: str, digest: str) -> VersionRow:
    rows = _where(
        session,
        name,
        or_(
            VersionRow.model_digest.startswith(digest), VersionRow.bundle_digest.startswith(digest)
        ),
    )
    if len(rows) > 1:
        raise NotFoundError(
            f"{name}@{digest} fits {len(rows)} versions, it is ambiguous: write more digits"
        )
    if not rows:
        raise NotFoundError(
            f"no version of {name} has the digest {digest}: `pulmo registry show {name}` lists them"
        )
    return rows[0]


def _found(row: ModelRow | None, session: Session, name: str) -> ModelRow:
    if row is None:
        known = ", ".join(model_names(session)) or "it is empty"
        raise NotFoundError(f"the registry has no model '{name}' ({known})")
    return row


def _add_model(session: Session, name: str) -> None:
    if session.get(ModelRow, name) is not None:
        return
    try:
        with session.begin_nested():
            session.add(ModelRow(name=name, next_number=0))
    except IntegrityError:
        pass  # another process registered the model's first version meanwhile; its row serves


def _add_lineage(session: Session, bundle: Bundle, actor: str) -> None:
    info = bundle.info
    told = select(LineageRow.id).where(
        LineageRow.name == info.name, LineageRow.bundle_digest == bundle.digest
    )
    if session.scalar(told) is None:
        session.add(
            LineageRow(
                name=info.name,
                model_digest=info.model_digest,
                bundle_digest=bundle.digest,
                document=info.lineage.model_dump(mode="json"),
                actor=actor,
                at=now(),
            )
        )
