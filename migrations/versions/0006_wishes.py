"""What was wanted of a choice is kept with it, and until when an offer holds."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
compatible_from = "0002"

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("response", sa.Column("wishes", JSON))
    op.add_column("recommendation", sa.Column("wishes", JSON))
    op.add_column("recommendation", sa.Column("expires_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("recommendation", "expires_at")
    op.drop_column("recommendation", "wishes")
    op.drop_column("response", "wishes")
