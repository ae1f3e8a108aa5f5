"""An item says how many options it has, and whether somebody has looked at it."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
compatible_from = "0008"


def upgrade() -> None:
    op.add_column("item", sa.Column("choices", sa.Integer))
    # With a default, so that older programs can go on adding items.
    op.add_column("item", sa.Column("reviewed", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("item", "reviewed")
    op.drop_column("item", "choices")
