"""Webhooks, and the outbox of the calls that are to be made."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "webhook",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("course_id", IDENTIFIER),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_webhook_tenant_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_webhook_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_webhook"),
    )
    op.create_table(
        "outbox",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("webhook_id", sa.String(32), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("learner_id", IDENTIFIER),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failed_at", sa.BigInteger),
        sa.Column("error", sa.String(255)),
        sa.ForeignKeyConstraint(
            ["tenant_id", "webhook_id"],
            ["webhook.tenant_id", "webhook.id"],
            name="fk_outbox_tenant_id_webhook_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "webhook_id", "id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_tenant_id_webhook_id_due_at", "outbox", ["tenant_id", "webhook_id", "due_at"])


def downgrade() -> None:
    op.drop_table("outbox")
    op.drop_table("webhook")
