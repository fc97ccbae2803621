"""Moves of aliases: each writes the alias, a line of history and, where people care, an event."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from pulmo.core.ports import AUTOMATIC_ALIASES, BEST, LATEST, PRODUCTION, Move
from pulmo.errors import ConflictError, NotFoundError, RefusedError
from pulmo.registry.versions import all_versions, now, require_version
from pulmo.store.tables import AliasRow, DeletionRow, EventRow, MoveRow, VersionRow

Action = Literal["register", "set", "promote", "rollback", "remove"]


@dataclass(frozen=True)
class Cause:
    """Who moves an alias, why, and on what evidence."""

    actor: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def pointed_at(session: Session, name: str, alias: str) -> int | None:
    """The number of the version that an alias points at, None where there is no such alias."""
    row = session.get(AliasRow, (name, alias))
    return None if row is None else row.number


def require_pointed(session: Session, name: str, alias: str, expected: int | None) -> int | None:
    """Where the alias points. Raises ConflictError unless that is `expected`."""
    present = pointed_at(session, name, alias)
    if present != expected:
        raise ConflictError(
            f"{name}:{alias} points at {_written(present)} now, not at {_written(expected)}: "
            f"see `pulmo registry history {name}` and decide again"
        )
    return present


def move_alias(
    session: Session, action: Action, name: str, alias: str, after: int | None, cause: Cause
) -> Move:
    """Point an alias at a version, or at nothing, and tell it; the model must be locked."""
    row = session.get(AliasRow, (name, alias))
    before = None if row is None else row.number
    if after is None:
        session.delete(row)
    elif row is None:
        session.add(AliasRow(name=name, alias=alias, number=after))
    else:
        row.number = after
    told = MoveRow(
        name=name,
        alias=alias,
        action=action,
        before=before,
        after=after,
        actor=cause.actor,
        reason=cause.reason,
        evidence=dict(cause.evidence),
        at=now(),
    )
    session.add(told)
    session.flush()
    move = _to_move(told)
    if alias not in AUTOMATIC_ALIASES:
        _announce(session, move)
    return move


def follow(
    session: Session, action: Action, name: str, cause: Cause, leaving: int | None = None
) -> None:
    """Let `latest` follow the newest version and `best` the highest score, the earlier of equals.

    `leaving` is a version that is about to be deleted.
    """
    rows = [row for row in all_versions(session, name) if row.number != leaving]
    scored = [row for row in rows if row.score is not None]
    best = max(scored, key=lambda row: (row.score or 0.0, -row.number), default=None)
    targets = {
        LATEST: rows[-1].number if rows else None,
        BEST: best.number if best is not None else None,
    }
    for alias, target in targets.items():
        if pointed_at(session, name, alias) != target:
            done: Action = "remove" if target is None else action
            move_alias(session, done, name, alias, target, cause)


def moves_of(session: Session, name: str, alias: str | None = None) -> list[Move]:
    """The history of a model, or of one of its aliases, oldest first."""
    query = select(MoveRow).where(MoveRow.name == name).order_by(MoveRow.id)
    if alias is not None:
        query = query.where(MoveRow.alias == alias)
    return [_to_move(row) for row in session.scalars(query)]


def choose_rollback(session: Session, name: str, to: int | None) -> tuple[VersionRow, Move]:
    """The version to go back to and the move that last gave it production.

    The history of `production` is replayed as a stack; the default is the nearest version below
    its top that still exists. Raises NotFoundError where nothing is in production and
    RefusedError where there is nothing to go back to.
    """
    moves = moves_of(session, name, PRODUCTION)
    if not moves:
        raise NotFoundError(f"nothing is at {name}:{PRODUCTION}: there is nothing to roll back")
    held = {move.after: move for move in moves}
    present = moves[-1].after
    target = _below_top(session, moves) if to is None else to
    if target is None:
        raise RefusedError(
            f"{name}:v{present} is in production and no earlier version is left to go back to"
        )
    if target == present:
        raise RefusedError(f"{name}:v{target} is in production already")
    if target in held and _is_deleted(session, name, target):
        raise RefusedError(f"{name}:v{target} was in production but has been deleted since")
    row = require_version(session, name, target)
    if target not in held:
        raise RefusedError(
            f"{name}:v{target} was never in production: `pulmo registry stage {name}:v{target}` "
            "tests and promotes it"
        )
    return row, held[target]


def _below_top(session: Session, moves: list[Move]) -> int | None:
    stack: list[int | None] = []
    for move in moves:
        if move.action == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        else:
            stack.append(move.after)
    present = stack.pop()
    live = {row.number for row in all_versions(session, moves[0].name)} - {present}
    return next((number for number in reversed(stack) if number in live), None)


def _is_deleted(session: Session, name: str, number: int) -> bool:
    query = select(DeletionRow.id).where(DeletionRow.name == name, DeletionRow.number == number)
    return session.scalar(query) is not None


def _announce(session: Session, move: Move) -> None:
    """Write the event of a move into the outbox, in the same transaction."""
    # A removed alias is told with the version that it left.
    number = cast(int, move.before if move.after is None else move.after)
    version = require_version(session, move.name, number)
    event = str(uuid.uuid4())
    payload = {
        "id": event,
        "move": move.id,
        "name": move.name,
        "alias": move.alias,
        "action": move.action,
        "before": move.before,
        "after": move.after,
        "model_digest": version.model_digest,
        "bundle_digest": version.bundle_digest,
        "actor": move.actor,
        "reason": move.reason,
        "at": move.at.isoformat(),
    }
    session.add(
        EventRow(event=event, name=move.name, kind=move.action, payload=payload, created_at=move.at)
    )


def _to_move(row: MoveRow) -> Move:
    return Move(
        id=row.id,
        name=row.name,
        alias=row.alias,
        action=cast(Action, row.action),
        before=row.before,
        after=row.after,
        actor=row.actor,
        reason=row.reason,
        evidence=row.evidence,
        at=row.at,
    )


def _written(number: int | None) -> str:
    return "nothing" if number is None else f"v{number}"
