"""A response keeps the maximum of its item at the time: what an answer was worth does not change afterwards."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
compatible_from = "0009"


def upgrade() -> None:
    # Without a value: the item's maximum has not changed since. What changes it writes it down first.
    op.add_column("response", sa.Column("max_score", sa.Double))


def downgrade() -> None:
    op.drop_column("response", "max_score")
