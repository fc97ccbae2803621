"""What is wrong with a registry: every byte, row, alias and move held against the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from pulmo.core.bundle import Bundle, verify
from pulmo.core.ports import PRODUCTION, is_alias, is_name
from pulmo.errors import ModelError, PulmoError, RegistryError
from pulmo.registry.inventory import Inventory, Piece
from pulmo.registry.moves import moves_of
from pulmo.registry.signing import Keys
from pulmo.registry.verdicts import verdicts_of
from pulmo.registry.versions import all_versions, model_names
from pulmo.store.dump import faults
from pulmo.store.tables import AliasRow, DeletionRow, ModelRow, VersionRow

RESTORE = "restore a backup into a new registry (`pulmo registry restore`)"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be; what is no `damage` does no harm."""

    damage: bool
    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Stored:
    """What a version's row says of its files."""

    label: str
    name: str
    model_digest: str
    bundle_digest: str


def stored_versions(session: Session, name: str | None = None) -> list[Stored]:
    """Every version of the registry, or of one model, by name and number."""
    query = select(VersionRow).order_by(VersionRow.name, VersionRow.number)
    if name is not None:
        query = query.where(VersionRow.name == name)
    return [
        Stored(f"{row.name}:v{row.number}", row.name, row.model_digest, row.bundle_digest)
        for row in session.scalars(query)
    ]


def examine_rows(session: Session, name: str | None = None) -> list[Finding]:
    """Whether rows agree with each other. Raises NotFoundError for an unknown `name`."""
    found = [Finding(True, "database", fault, RESTORE) for fault in faults(session)]
    for model in model_names(session) if name is None else [name]:
        found += _examine_counter(session, model)
        found += _examine_history(session, model)
        found += _examine_production(session, model)
    return found


def examine_files(
    inventory: Inventory, versions: Sequence[Stored], keys: Keys
) -> Iterator[Finding]:
    """Read every file of these versions, as it lies in the store, against digests and key."""
    for version in versions:
        try:
            with inventory.opened(version.bundle_digest) as folder:
                if not any(folder.glob("*")):
                    raise ModelError(f"its files are not in {inventory.place}")
                require_same(keys.check(verify(folder)), version)
        except (PulmoError, OSError) as error:
            remedy = (
                "register the same bundle again from its run's folder, which mends the files, or "
                + RESTORE
            )
            yield Finding(True, version.label, str(error), remedy)


def require_same(bundle: Bundle, version: Stored) -> None:
    """Raises RegistryError unless a bundle is the one that a version's row names."""
    said = {
        "bundle digest": (bundle.digest, version.bundle_digest),
        "model digest": (bundle.info.model_digest, version.model_digest),
        "name": (bundle.info.name, version.name),
    }
    for word, (files, row) in said.items():
        if files != row:
            raise RegistryError(
                f"{version.label}: the {word} of its files is {files}, the registry says {row}"
            )


def examine_store(pieces: Sequence[Piece], referenced: set[str]) -> list[Finding]:
    """What no version names: told, and no damage."""
    found = []
    for piece in pieces:
        if piece.kind == "foreign":
            told = "no part of the registry", "move it elsewhere if it is not needed here"
        elif piece.kind == "leftover":
            told = "left by an interrupted command", "`pulmo registry gc` removes it"
        elif piece.kind == "bundle" and piece.name not in referenced:
            told = "no version names this bundle", "`pulmo registry gc` removes it"
        else:
            continue
        found.append(Finding(False, piece.name, *told))
    return found


def _examine_counter(session: Session, name: str) -> Iterator[Finding]:
    model = session.get_one(ModelRow, name) if is_name(name) else None
    deleted = select(DeletionRow.number).where(DeletionRow.name == name)
    numbers = [row.number for row in all_versions(session, name)]
    numbers += session.scalars(deleted)
    if model is None:
        yield Finding(True, name, "this cannot be the name of a model", RESTORE)
    elif any(not 0 <= number < model.next_number for number in numbers):
        told = f"the next version would be v{model.next_number}, which was given already"
        yield Finding(True, name, told, RESTORE)


def _examine_history(session: Session, name: str) -> Iterator[Finding]:
    """The aliases are where the last line of their history says, and on a version that exists."""
    ends: dict[str, int | None] = {}
    for move in moves_of(session, name):
        if move.before != ends.get(move.alias):
            told = f"move {move.id} does not begin where the one before it ended"
            yield Finding(True, f"{name}:{move.alias}", told, RESTORE)
        ends[move.alias] = move.after
    numbers = {row.number for row in all_versions(session, name)}
    rows = session.scalars(select(AliasRow).where(AliasRow.name == name))
    pointing = {row.alias: row.number for row in rows}
    for alias in sorted({*ends, *pointing}):
        where, number = f"{name}:{alias}", pointing.get(alias)
        if number is not None and (number not in numbers or not is_alias(alias)):
            yield Finding(True, where, f"points at v{number}, which does not exist", RESTORE)
        if number != ends.get(alias):
            told = "does not point where its history ends"
            yield Finding(True, where, told, RESTORE)


def _examine_production(session: Session, name: str) -> Iterator[Finding]:
    row = session.get(AliasRow, (name, PRODUCTION))
    versions = {one.number: one for one in all_versions(session, name)}
    if row is None or row.number not in versions:
        return
    verdicts = verdicts_of(session, name, versions[row.number].model_digest)
    if not any(v.passed and v.checks and all(c.passed for c in v.checks) for v in verdicts):
        told = f"v{row.number} has no passing verdict"
        remedy = f"`pulmo registry rollback {name}`, or stage a tested version"
        yield Finding(True, f"{name}:{PRODUCTION}", told, remedy)
