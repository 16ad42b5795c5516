"""The tables of accounts. No password, token or session stands in them, only what can recognise one again."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

users = Table(
    "account_users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("password", Text, nullable=False),  # argon2's own notation, salt and costs in it
    Column("created_at", String(32), nullable=False),
)

tokens = Table(
    "account_tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # SHA-256; the token has 256 random bits
    Column("user_name", ForeignKey("account_users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("last_used_at", String(32), nullable=False),
)

sessions = Table(
    "account_sessions",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    # Null: the operator's, who logged in with the token of `proof`.
    Column("user_name", ForeignKey("account_users.name", ondelete="CASCADE"), index=True),
    Column("proof", String(64), nullable=False),
    Column("expires", Float(53), nullable=False, index=True),  # seconds since 1970
)
