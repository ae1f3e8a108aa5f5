"""Counters of rate limits; and the database can say which older programs it goes on serving."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
compatible_from = "0002"
keeps_data = True  # counters of windows that end by themselves


def upgrade() -> None:
    op.add_column("alembic_version", sa.Column("compatible_from", sa.String(32)))
    op.create_table(
        "quota_use",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("ends_at", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "subject", "ends_at", name="pk_quota_use"),
    )


def downgrade() -> None:
    op.drop_table("quota_use")
    op.drop_column("alembic_version", "compatible_from")
