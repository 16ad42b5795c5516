"""The layout of the tables, counted: a database of an earlier Quartet is brought up to date, a later one is refused.

One step for each layout after the first. A step runs once, in the transaction that also writes the new count, after
tables that are wholly new were made; so it only has to change those that were there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Table, insert, inspect, select, text, update

from backends.errors import QuartetError
from rag.store import embedding_models, settings


def prepare(db: Connection, tables: Sequence[Table]) -> None:
    """Makes `tables` where they are missing and brings the rest up to date. Raises QuartetError for a database that a
    later version has written."""
    old = inspect(db).has_table(settings.name)
    tables[0].metadata.create_all(db, tables)
    written = db.scalar(select(settings.c.value).where(settings.c.name == "layout"))
    layout = int(written) if written else 1 if old else LAYOUT
    if layout > LAYOUT:
        raise QuartetError(
            f"This database was written by a later version of Quartet (layout {layout}; this one knows {LAYOUT}). "
            "Start that version, or put back a backup of before."
        )
    for step in _STEPS[layout - 1 :]:
        step(db)
    if written is None:
        db.execute(insert(settings).values(name="layout", value=str(LAYOUT)))
    elif layout < LAYOUT:
        db.execute(update(settings).where(settings.c.name == "layout").values(value=str(LAYOUT)))


def _models_have_a_table(db: Connection) -> None:
    """Layout 2: whose vectors are where; one of them was in service, in the first place for vectors."""
    name = db.scalar(select(settings.c.value).where(settings.c.name == "embedding_model"))
    if name is not None:
        # It was called by what it was loaded from and, behind an @, by a version.
        db.execute(insert(embedding_models).values(slot=0, source=name.partition("@")[0], name=name, state="serving"))
        db.execute(text("DELETE FROM settings WHERE name = 'embedding_model'"))


def _files_tell_their_pace_and_are_read_again(db: Connection) -> None:
    """Layout 3."""
    db.execute(text("ALTER TABLE files ADD COLUMN rate FLOAT NOT NULL DEFAULT 0"))
    db.execute(text("ALTER TABLE files ADD COLUMN renews VARCHAR(32) REFERENCES files (id) ON DELETE CASCADE"))
    db.execute(text("CREATE INDEX ix_files_renews ON files (renews)"))


_STEPS: tuple[Callable[[Connection], None], ...] = (
    _models_have_a_table,
    _files_tell_their_pace_and_are_read_again,
)
LAYOUT = 1 + len(_STEPS)
