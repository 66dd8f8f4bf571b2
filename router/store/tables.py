"""The tables of rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    and_,
    literal_column,
)

metadata = MetaData()

#: SQLite numbers its rows by itself only in a column of type INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")
#: Text in the order of its characters' codes, as SQLite and Python have it.
_Sorted = Text(collation="C").with_variant(Text(), "sqlite")


def _partial(
    name: str, where: ColumnElement[bool], *columns: ColumnElement[Any], unique: bool = False
) -> None:
    """Index those rows of the columns' table that meet a condition."""
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


#: One row per job. ``queue`` is the model while the job is ready to be claimed, ``delayed_until``
#: is set while it waits for its time, ``lease_until`` while a worker holds it; ``unfinished_of`` is
#: the owner until it ends, ``untold_since`` is set from then until its last deliveries are written.
#: Each has its own partial index, so that no look-up pays for rows that do not matter to it.
jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("name", Text),
    Column("api", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queue", Text),
    Column("turn", BigInteger, nullable=False),
    Column("delayed_until", Float(53)),
    Column("worker", Text),
    Column("lease_until", Float(53)),
    Column("attempts", Integer, nullable=False),
    Column("interrupted", Boolean, nullable=False),
    Column("skips", Integer, nullable=False),
    Column("finished_by", Integer),
    Column("notify", Boolean, nullable=False),
    Column("hidden", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("unfinished_of", Text),
    Column("untold_since", Float(53)),
    Column("request", Text, nullable=False),  # JSON of what never changes
    Column("state", Text, nullable=False),  # JSON of what does, and no query asks for
    sqlite_autoincrement=True,
)
_partial(
    "jobs_queue",
    jobs.c.queue.is_not(None),
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.turn,
    jobs.c.seq,
)
_partial(
    "jobs_queue_of_owner",
    jobs.c.queue.is_not(None),
    jobs.c.queue,
    jobs.c.owner,
    jobs.c.priority,
    jobs.c.turn,
)
_partial("jobs_delayed", jobs.c.delayed_until.is_not(None), jobs.c.model, jobs.c.delayed_until)
_partial("jobs_leased", jobs.c.lease_until.is_not(None), jobs.c.lease_until)
_partial(
    "jobs_running", jobs.c.lease_until.is_not(None), jobs.c.model, jobs.c.priority, jobs.c.turn
)
_partial("jobs_unfinished", jobs.c.ended_at.is_(None), jobs.c.model, jobs.c.status)
_partial("jobs_ended", jobs.c.ended_at.is_not(None), jobs.c.ended_at)
_partial(
    "jobs_unfinished_of_owner", jobs.c.unfinished_of.is_not(None), jobs.c.unfinished_of, jobs.c.seq
)
Index("jobs_of_owner", jobs.c.owner, jobs.c.seq)
_partial(
    "jobs_interrupted",
    and_(jobs.c.interrupted.is_(True), jobs.c.worker.is_not(None)),
    jobs.c.worker,
)
_partial("jobs_untold", jobs.c.untold_since.is_not(None), jobs.c.untold_since, jobs.c.seq)
_partial("jobs_named", jobs.c.name.is_not(None), jobs.c.owner, jobs.c.api, jobs.c.name, jobs.c.seq)
_partial(
    "jobs_name_unfinished",
    and_(jobs.c.name.is_not(None), jobs.c.ended_at.is_(None)),
    jobs.c.owner,
    jobs.c.api,
    jobs.c.name,
    unique=True,
)
_partial(
    "jobs_history",
    jobs.c.ended_at.is_not(None),
    jobs.c.owner,
    jobs.c.api,
    jobs.c.hidden,
    jobs.c.ended_at,
    jobs.c.seq,
)
Index("jobs_changed", jobs.c.api, jobs.c.owner, jobs.c.updated_at)

#: The newest news of a job: apart, so that a step does not rewrite the job's row.
job_progress = Table(
    "job_progress",
    metadata,
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("num_steps", Integer, nullable=False),
    Column("preview", LargeBinary),
    Column("preview_index", Integer, nullable=False),
    Column("num_previews", Integer, nullable=False),
    Column("notes", Text, nullable=False),  # a JSON list
)

#: Which job names which input picture.
job_inputs = Table(
    "job_inputs",
    metadata,
    Column("key", Text, primary_key=True),
    Column("job_id", ForeignKey(jobs.c.id, ondelete="CASCADE"), primary_key=True, index=True),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("api", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("job_id", Text, nullable=False, index=True),
    Column("expires_at", Float(53), nullable=False, index=True),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("job_id", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event", String(32), nullable=False),
    Column("payload", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Float(53), nullable=False),
    Column("worker", Text),
    Column("last_error", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("delivered_at", Float(53)),
    Index("deliveries_due", "status", "next_attempt_at", "seq"),
    Index("deliveries_of_job", "job_id", "status", "url", "seq"),
    Index("deliveries_of_owner", "owner", "seq"),
    sqlite_autoincrement=True,
)

#: What each owner set in an API that remembers settings: a JSON object.
owner_options = Table(
    "owner_options",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("api", Text, primary_key=True),
    Column("options", Text, nullable=False),
)

#: The numbers that owners' counters give next.
counters = Table(
    "counters",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("counter", Text, primary_key=True),
    Column("next", BigInteger, nullable=False),
)

#: The names of owners' files. ``series`` is the name without its number where a store gave one.
files = Table(
    "files",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("subfolder", _Sorted, primary_key=True),
    Column("name", _Sorted, primary_key=True),
    Column("series", Text),
    Column("number", BigInteger),
    Column("key", Text, nullable=False, index=True),
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("job_id", Text),
    Column("label", Text, nullable=False),
)
_partial(
    "files_series",
    files.c.series.is_not(None),
    files.c.owner,
    files.c.kind,
    files.c.subfolder,
    files.c.series,
    files.c.number,
)
_partial(
    "files_unnumbered", files.c.series.is_(None), files.c.owner, files.c.kind, files.c.subfolder
)
_partial("files_of_job", files.c.job_id.is_not(None), files.c.job_id, files.c.label)
_partial(
    "files_labelled",
    and_(files.c.job_id.is_not(None), files.c.label != literal_column("''")),
    files.c.job_id,
    files.c.label,
    unique=True,
)
_partial(
    "files_uploaded",
    and_(files.c.job_id.is_(None), files.c.kind != literal_column("'userdata'")),
    files.c.created_at,
    files.c.key,
)

#: Weights that owners registered.
personal_models = Table(
    "personal_models",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("name", _Sorted, primary_key=True),
    Column("base", Text, nullable=False),
    Column("source", Text, nullable=False),  # JSON
    Column("key", Text, nullable=False, index=True),
    Column("parts", Text, nullable=False),  # a JSON list
    Column("num_bytes", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
)

#: One row: the version of this schema.
meta = Table("meta", metadata, Column("schema_version", Integer, nullable=False))
