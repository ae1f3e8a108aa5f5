"""States on the way through a learner's log, so that a fold need not start from its beginning."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
# No `compatible_from`: a program of before would leave checkpoints where it takes a late answer.
keeps_data = True  # checkpoints can be computed from the log

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "checkpoint",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("learner_id", IDENTIFIER, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("response_id", IDENTIFIER, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("calibration", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("engine", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "learner_id"],
            ["learner.tenant_id", "learner.course_id", "learner.id"],
            name="fk_checkpoint_tenant_id",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "course_id", "learner_id", "occurred_at", "response_id", name="pk_checkpoint"
        ),
    )


def downgrade() -> None:
    op.drop_table("checkpoint")
