"""The log's first schema: predictions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and what it is searched by."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "predictions",
        sa.Column("number", number, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.String(16), nullable=True),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("input_sha256", sa.String(64), nullable=False),
        sa.Column("pixels_sha256", sa.String(64), nullable=False),
        sa.Column("prediction", sa.String(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=False),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("decision", sa.String(8), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("distance", sa.Double(), nullable=True),
        sa.Column("statistics", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_predictions"),
        sa.UniqueConstraint("id", name="uq_predictions_id"),
    )
    op.create_index("ix_predictions_at", "predictions", ["at"])
    op.create_index("ix_predictions_model_digest_at", "predictions", ["model_digest", "at"])
    op.create_index("ix_predictions_input_sha256", "predictions", ["input_sha256"])
