"""Columns, and what is kept in them as JSON, are called what the glossary calls them. Nothing else changes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
compatible_from = "0008"  # older programs ask for the old names
keeps_data = True

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

# table, name before, name from here on
COLUMNS = (
    ("course", "refold_revision", "replay_revision"),
    ("item_skill", "place", "position"),
    ("response", "dated", "has_timestamp"),
    ("response", "wishes", "options"),
    ("response", "engine", "outcome_version"),
    ("recommendation", "wishes", "options"),
    ("recommendation", "engine", "outcome_version"),
    ("session", "barred", "excluded_items"),
    ("session", "turn", "offer"),
    ("session_response", "turn", "offer"),
)
# table, column (as it is called from here on), path within it, name before, name from here on
KEYS = (
    ("response", "options", (), "lease_s", "expires_in"),
    ("recommendation", "options", (), "lease_s", "expires_in"),
    ("session", "plan", (), "informs_practice", "updates_mastery"),
    ("session", "plan", ("selection", "pilot"), "places", "positions"),
    ("section", "settings", (), "informs_practice", "updates_mastery"),
    ("section", "settings", ("selection", "pilot"), "places", "positions"),
)


def upgrade() -> None:
    for table, before, after in COLUMNS:
        rename_column(table, before, after)
    for table, column, path, before, after in KEYS:
        rename_key(table, column, path, before, after)
    create_exchanges("section_exchange", "reply")
    move_exchanges("section_turn", "answer", "section_exchange", "reply")


def downgrade() -> None:
    create_exchanges("section_turn", "answer")
    move_exchanges("section_exchange", "reply", "section_turn", "answer")
    for table, column, path, before, after in KEYS:
        rename_key(table, column, path, after, before)
    for table, before, after in COLUMNS:
        rename_column(table, after, before)


def rename_column(table: str, before: str, after: str) -> None:
    # Not op.alter_column, which would copy the whole table on SQLite.
    op.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")


def rename_key(table: str, column: str, path: tuple[str, ...], before: str, after: str) -> None:
    """Rename a key of the objects in a column, in the rows that have it."""
    if op.get_bind().dialect.name == "postgresql":
        old, new = (f"'{{{','.join((*path, key))}}}'" for key in (before, after))
        value = f"jsonb_set({column} #- {old}, {new}, {column} #> {old})"
        has_key = f"{column} #> {old} IS NOT NULL"
    else:
        old, new = (f"'{'.'.join(('$', *path, key))}'" for key in (before, after))
        # `->` gives JSON; json_extract would give the SQL values of numbers and truths.
        value = f"json_remove(json_set({column}, {new}, json({column} -> {old})), {old})"
        has_key = f"json_type({column}, {old}) IS NOT NULL"
    op.execute(sa.text(f"UPDATE {table} SET {column} = {value} WHERE {has_key}"))  # noqa: S608 (names of ours)


def create_exchanges(name: str, reply: str) -> None:
    """A table of exchanges whose constraints are called after it, as both databases keep the names of old ones."""
    op.create_table(
        name,
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("session_id", IDENTIFIER, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64)),
        sa.Column("offered", JSON, nullable=False),
        sa.Column(reply, sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["section_session.tenant_id", "section_session.session_id"],
            name=f"fk_{name}_tenant_id_session_id",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "session_id", "version", name=f"pk_{name}"),
    )


def move_exchanges(source: str, answer: str, target: str, reply: str) -> None:
    """Copy all rows to the other table, and drop the one they come from."""
    same = "tenant_id, session_id, version, digest, offered"
    op.execute(f"INSERT INTO {target} ({same}, {reply}) SELECT {same}, {answer} FROM {source}")  # noqa: S608 (names of ours)
    op.drop_table(source)
