"""A calibration that runs is leased, attempt by attempt; what it is compared with and when it was activated is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Runs were not taken over before: one that is still marked as running was interrupted, and was told so.
END_RUNS = """
    UPDATE calibration
    SET status = 'failed', finished_at = leased_until, error = 'the run was interrupted; request another'
    WHERE status = 'running'
"""
# What is in force, and what stored answers were told under, was activated at some time.
FIND_ACTIVATED = """
    UPDATE calibration
    SET activated_at = finished_at
    WHERE number = (SELECT course.calibration FROM course
                    WHERE course.tenant_id = calibration.tenant_id AND course.id = calibration.course_id)
       OR number IN (SELECT response.calibration FROM response
                     WHERE response.tenant_id = calibration.tenant_id
                     AND response.course_id = calibration.course_id)
"""


def upgrade() -> None:
    with op.batch_alter_table("calibration") as table:
        table.alter_column("alive_at", new_column_name="leased_until", existing_type=sa.BigInteger)
        table.add_column(sa.Column("attempt", sa.Integer, nullable=False, server_default="1"))
        table.add_column(sa.Column("compared_with", sa.Integer))
        table.add_column(sa.Column("activated_at", sa.BigInteger))
    with op.batch_alter_table("calibration") as table:
        table.alter_column("attempt", server_default=None, existing_type=sa.Integer)
    op.execute(END_RUNS)
    op.execute(FIND_ACTIVATED)


def downgrade() -> None:
    with op.batch_alter_table("calibration") as table:
        table.drop_column("activated_at")
        table.drop_column("compared_with")
        table.drop_column("attempt")
        table.alter_column("leased_until", new_column_name="alive_at", existing_type=sa.BigInteger)
