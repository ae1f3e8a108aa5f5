"""Adaptive tests, sections of 1EdTech CAT, and tokens that stand for a key for a while."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
compatible_from = "0005"

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("item", sa.Column("exposure", sa.Double))
    op.create_table(
        "session",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("learner_id", IDENTIFIER),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("barred", JSON, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("calibration", sa.Integer),
        sa.Column("engine", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("turn", JSON),
        sa.Column("stop", sa.String(32)),
        sa.Column("lifetime_s", sa.Integer, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("active_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_session_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_session"),
    )
    op.create_index("ix_session_tenant_id_course_id_started_at", "session", ["tenant_id", "course_id", "started_at"])
    op.create_index("ix_session_tenant_id_course_id_id", "session", ["tenant_id", "course_id", "id"])
    op.create_table(
        "session_response",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("item_id", IDENTIFIER, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("turn", JSON, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["session.tenant_id", "session.id"],
            name="fk_session_response_tenant_id_session_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "item_id"],
            ["item.tenant_id", "item.course_id", "item.id"],
            name="fk_session_response_tenant_id_course_id_item_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", "id", name="pk_session_response"),
    )
    op.create_index(
        "ix_session_response_tenant_id_session_id_position",
        "session_response",
        ["tenant_id", "session_id", "position"],
        unique=True,
    )
    op.create_table(
        "section",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("configuration_digest", sa.String(64), nullable=False),
        sa.Column("posted", sa.Text, nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("posted_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_section_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_section"),
        sa.UniqueConstraint("tenant_id", "digest", name="uq_section_tenant_id_digest"),
    )
    op.create_index(
        "ix_section_tenant_id_configuration_digest_posted_at",
        "section",
        ["tenant_id", "configuration_digest", "posted_at"],
    )
    op.create_table(
        "section_session",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", IDENTIFIER, nullable=False),
        sa.Column("section_id", sa.String(64), nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["session.tenant_id", "session.id"],
            name="fk_section_session_tenant_id_session_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "section_id"],
            ["section.tenant_id", "section.id"],
            name="fk_section_session_tenant_id_section_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", name="pk_section_session"),
    )
    op.create_table(
        "section_turn",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", IDENTIFIER, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("offered", JSON, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["section_session.tenant_id", "section_session.session_id"],
            name="fk_section_turn_tenant_id_session_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", "version", name="pk_section_turn"),
    )
    op.create_table(
        "access_token",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "key_id"], ["api_key.tenant_id", "api_key.id"], name="fk_access_token_tenant_id_key_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "hash", name="pk_access_token"),
    )


def downgrade() -> None:
    op.drop_table("access_token")
    op.drop_table("section_turn")
    op.drop_table("section_session")
    op.drop_table("section")
    op.drop_table("session_response")
    op.drop_table("session")
    op.drop_column("item", "exposure")
