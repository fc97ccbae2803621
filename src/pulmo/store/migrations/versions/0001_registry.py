"""The registry's first schema: models, versions, aliases, history, verdicts and the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table."""
    _create_versions()
    _create_ledger()
    _create_events()


def _digest(name: str, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(64), nullable=nullable)


def _time(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _key(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """What every table of a model's facts begins with: a number and the model's name."""
    return (
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"pk_{table}"),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name=f"fk_{table}_name"),
    )


def _create_versions() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("next_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_table(
        "versions",
        *_key("versions"),
        sa.Column("number", sa.Integer(), nullable=False),
        _digest("model_digest"),
        _digest("bundle_digest"),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("metric", sa.String(), nullable=False),
        _time("created_at"),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.UniqueConstraint("name", "model_digest", name="uq_versions_name_model_digest"),
        sa.UniqueConstraint("name", "number", name="uq_versions_name_number"),
    )
    op.create_index("ix_versions_bundle_digest", "versions", ["bundle_digest"])
    op.create_table(
        "deletions",
        *_key("deletions"),
        sa.Column("number", sa.Integer(), nullable=False),
        _digest("model_digest"),
        _digest("bundle_digest"),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        _time("at"),
        sa.UniqueConstraint("name", "number", name="uq_deletions_name_number"),
    )
    op.create_table(
        "lineages",
        *_key("lineages"),
        _digest("model_digest"),
        _digest("bundle_digest"),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        _time("at"),
        sa.UniqueConstraint("name", "bundle_digest", name="uq_lineages_name_bundle_digest"),
    )
    op.create_index("ix_lineages_name_model_digest", "lineages", ["name", "model_digest"])


def _create_ledger() -> None:
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(
            ["name", "number"],
            ["versions.name", "versions.number"],
            name="fk_aliases_name_number",
        ),
    )
    op.create_table(
        "history",
        *_key("history"),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("before", sa.Integer(), nullable=True),
        sa.Column("after", sa.Integer(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        _time("at"),
    )
    op.create_index("ix_history_name_alias", "history", ["name", "alias"])


def _create_events() -> None:
    op.create_table(
        "outbox",
        *_key("outbox"),
        sa.Column("event", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        _time("created_at"),
        _time("delivered_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.UniqueConstraint("event", name="uq_outbox_event"),
    )
    op.create_index("ix_outbox_delivered_at_id", "outbox", ["delivered_at", "id"])
    op.create_table(
        "verdicts",
        *_key("verdicts"),
        _digest("model_digest"),
        _digest("suite_digest"),
        _digest("champion_digest", nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("checks", sa.JSON(), nullable=False),
        _digest("data_digest"),
        sa.Column("details", sa.JSON(), nullable=False),
        _time("at"),
    )
    op.create_index(
        "ix_verdicts_name_model_digest_suite_digest",
        "verdicts",
        ["name", "model_digest", "suite_digest"],
    )
