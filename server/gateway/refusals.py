"""Refusals: a slug of billing.errors, and the values that its wording tells. A function raises one,
or gives the slug as the outcome of an item; either becomes a Refused here, and an answer in
server/http/errors.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncpg
import orjson

from server.gateway.call import Row
from server.observe.coded_error import CodedError

_CLASS = "PB"  # of the SQLSTATEs of refusals; the HTTP status follows
_WORDINGS = "SELECT e.slug, e.http_status, e.message FROM billing.errors AS e"


class Refused(CodedError):
    """A call or an item was refused: `slug` and `status` from billing.errors, `message` as worded
    there, `values` what its placeholders were filled with."""

    def __init__(self, slug: str, status: int, message: str, values: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.slug = self.code = slug
        self.status = status
        self.message = message
        self.values = values


def is_refusal(error: asyncpg.PostgresError) -> bool:
    """Whether a function raised it to refuse the call."""
    return (error.sqlstate or "").startswith(_CLASS)


def raised_refusal(error: asyncpg.PostgresError) -> Refused:
    """The refusal that a function raised; the database has worded it."""
    values = orjson.loads(error.detail) if error.detail else {}
    status = int((error.sqlstate or "").removeprefix(_CLASS))
    return Refused(error.constraint_name or "refused", status, error.message, values)


class Refusals:
    """Words the refusals that are outcomes. `query` gives the rows of a statement."""

    def __init__(self, query: Callable[[str], Awaitable[list[Row]]]) -> None:
        self._query = query
        self._wordings: dict[str, tuple[int, str]] = {}

    async def read(self) -> None:
        """Reads billing.errors. Raises Unavailable when the database cannot be asked."""
        rows = await self._query(_WORDINGS)
        self._wordings = {row["slug"]: (row["http_status"], row["message"]) for row in rows}

    async def refused(self, slug: str, values: Mapping[str, Any]) -> Refused:
        """The refusal `slug`; `values` fill the placeholders of its wording."""
        if slug not in self._wordings:
            await self.read()
        status, wording = self._wordings[slug]
        return Refused(slug, status, wording.format_map(_Placeholders(values)), values)


class _Placeholders(dict[str, Any]):
    # A placeholder without a value stays as it is.
    def __missing__(self, key: str) -> str:
        return "{" + key + "}"
