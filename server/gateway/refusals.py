"""Refusals: a slug of billing.errors, and the values for its wording. A function raises a refusal,
or returns the slug as the outcome of an item. Here both become a Refused, which
server/http/errors.py turns into an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import orjson

from server.gateway.call import Row
from server.observe.coded_error import CodedError

_CLASS = "PB"  # the class of the SQLSTATEs of refusals; the HTTP status follows it
_WORDINGS = "SELECT e.slug, e.http_status, e.message FROM billing.errors AS e"


class Refused(CodedError):
    """A call or an item was refused: `slug` and `status` are from billing.errors, `message` is its
    wording, and `values` filled its placeholders."""

    def __init__(self, slug: str, status: int, message: str, values: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.slug = self.code = slug
        self.status = status
        self.message = message
        self.values = values


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether a function raised the error to refuse the call."""
    return (error.sqlstate or "").startswith(_CLASS)


def raised_refusal(error: asyncpg.PostgresError) -> Refused:
    """The refusal that a function raised, with the database's wording."""
    values = orjson.loads(error.detail) if error.detail else {}
    status = int((error.sqlstate or "").removeprefix(_CLASS))
    return Refused(error.constraint_name or "refused", status, error.message, values)


class Refusals:
    """Words the refusals that are outcomes. `query` returns the rows of a statement."""

    def __init__(self, query: Callable[[str], Awaitable[list[Row]]]) -> None:
        self._query = query
        self._wordings: dict[str, tuple[int, str]] = {}

    async def read(self) -> None:
        """Reads billing.errors. Raises Unavailable when the database does not answer."""
        rows = await self._query(_WORDINGS)
        self._wordings = {row["slug"]: (row["http_status"], row["message"]) for row in rows}

    async def refused(self, slug: str, values: Mapping[str, Any]) -> Refused:
        """Returns the refusal `slug`. `values` fill the placeholders of its wording."""
        if slug not in self._wordings:
            await self.read()
        status, wording = self._wordings[slug]
        return Refused(slug, status, wording.format_map(_Placeholders(values)), values)


class _Placeholders(dict[str, Any]):
    # A placeholder without a value stays as it is.
    def __missing__(self, key: str) -> str:
        return "{" + key + "}"
