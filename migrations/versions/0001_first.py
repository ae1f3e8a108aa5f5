"""The first schema: tenants and keys, the catalogue, the log with its snapshots, calibrations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TENANT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tenant",
        sa.Column("id", TENANT, nullable=False),
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tenant"),
        sa.UniqueConstraint("name", name="uq_tenant_name"),
    )
    op.create_table(
        "api_key",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_api_key_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_api_key"),
        sa.UniqueConstraint("tenant_id", "hash", name="uq_api_key_tenant_id_hash"),
    )
    op.create_table(
        "course",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("refold_revision", sa.Integer, nullable=False),
        sa.Column("calibration", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenant.id"], name="fk_course_tenant_id"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_course"),
    )
    op.create_table(
        "calibration",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("alive_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("parameters", sa.LargeBinary),
        sa.Column("report", JSON),
        sa.Column("error", sa.Text),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_calibration_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "number", name="pk_calibration"),
    )
    op.create_table(
        "catalogue_change",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"],
            ["course.tenant_id", "course.id"],
            name="fk_catalogue_change_tenant_id_course_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "revision", name="pk_catalogue_change"),
    )
    op.create_table(
        "item",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("kind", sa.String(64)),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("max_score", sa.Double, nullable=False),
        sa.Column("parameters", JSON),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_item_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "id", name="pk_item"),
        sa.UniqueConstraint("tenant_id", "course_id", "number", name="uq_item_tenant_id_course_id_number"),
    )
    op.create_table(
        "learner",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("theta", sa.Double, nullable=False),
        sa.Column("standard_error", sa.Double, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("last_occurred_at", sa.BigInteger),
        sa.Column("last_response_id", IDENTIFIER),
        sa.Column("calibration", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("engine", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_learner_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "id", name="pk_learner"),
    )
    op.create_table(
        "skill",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("title", sa.Text),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"], ["course.tenant_id", "course.id"], name="fk_skill_tenant_id_course_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "id", name="pk_skill"),
        sa.UniqueConstraint("tenant_id", "course_id", "number", name="uq_skill_tenant_id_course_id_number"),
    )
    op.create_table(
        "item_skill",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("item_id", IDENTIFIER, nullable=False),
        sa.Column("skill_id", IDENTIFIER, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "item_id"],
            ["item.tenant_id", "item.course_id", "item.id"],
            name="fk_item_skill_tenant_id_course_id_item_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "skill_id"],
            ["skill.tenant_id", "skill.course_id", "skill.id"],
            name="fk_item_skill_tenant_id_course_id_skill_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "item_id", "skill_id", name="pk_item_skill"),
    )
    op.create_table(
        "prerequisite",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("skill_id", IDENTIFIER, nullable=False),
        sa.Column("prerequisite_id", IDENTIFIER, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "prerequisite_id"],
            ["skill.tenant_id", "skill.course_id", "skill.id"],
            name="fk_prerequisite_tenant_id_course_id_prerequisite_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "skill_id"],
            ["skill.tenant_id", "skill.course_id", "skill.id"],
            name="fk_prerequisite_tenant_id_course_id_skill_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "skill_id", "prerequisite_id", name="pk_prerequisite"),
    )
    op.create_table(
        "recommendation",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("learner_id", IDENTIFIER, nullable=False),
        sa.Column("response_id", IDENTIFIER),
        sa.Column("item_id", IDENTIFIER, nullable=False),
        sa.Column("skill_id", IDENTIFIER),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("terms", JSON, nullable=False),
        sa.Column("p_correct", sa.Double, nullable=False),
        sa.Column("propensity", sa.Double, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("avoided", JSON, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("calibration", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("engine", sa.Integer, nullable=False),
        sa.Column("offered_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "item_id"],
            ["item.tenant_id", "item.course_id", "item.id"],
            name="fk_recommendation_tenant_id_course_id_item_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "learner_id"],
            ["learner.tenant_id", "learner.course_id", "learner.id"],
            name="fk_recommendation_tenant_id_course_id_learner_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "id", name="pk_recommendation"),
    )
    op.create_table(
        "response",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("learner_id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("item_id", IDENTIFIER, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("dated", sa.Boolean, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.Column("duration_ms", sa.BigInteger),
        sa.Column("recommendation_id", sa.String(255)),
        sa.Column("calibration", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("engine", sa.Integer, nullable=False),
        sa.Column("p_correct", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "item_id"],
            ["item.tenant_id", "item.course_id", "item.id"],
            name="fk_response_tenant_id_course_id_item_id",
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "learner_id"],
            ["learner.tenant_id", "learner.course_id", "learner.id"],
            name="fk_response_tenant_id_course_id_learner_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "id", name="pk_response"),
    )
    op.create_index(
        "ix_response_tenant_id_course_id_learner_id_occurred_at_id",
        "response",
        ["tenant_id", "course_id", "learner_id", "occurred_at", "id"],
        unique=True,
    )
    op.create_table(
        "correction",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("response_id", IDENTIFIER, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("learner_id", IDENTIFIER, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("made_by", sa.String(32), nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id", "response_id"],
            ["response.tenant_id", "response.course_id", "response.id"],
            name="fk_correction_tenant_id_course_id_response_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "response_id", "position", name="pk_correction"),
    )
    op.create_index(
        "ix_correction_tenant_id_course_id_learner_id_position",
        "correction",
        ["tenant_id", "course_id", "learner_id", "position"],
        unique=True,
    )
    op.create_table(
        "import_run",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("course_id", IDENTIFIER, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("line", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "course_id"],
            ["course.tenant_id", "course.id"],
            name="fk_import_run_tenant_id_course_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "course_id", "digest", name="pk_import_run"),
    )


def downgrade() -> None:
    op.drop_table("import_run")
    op.drop_table("correction")
    op.drop_table("response")
    op.drop_table("recommendation")
    op.drop_table("prerequisite")
    op.drop_table("item_skill")
    op.drop_table("skill")
    op.drop_table("learner")
    op.drop_table("item")
    op.drop_table("catalogue_change")
    op.drop_table("calibration")
    op.drop_table("course")
    op.drop_table("api_key")
    op.drop_table("tenant")
