"""Connections through a pooler in transaction mode (PgBouncer). Each transaction may run on another
server connection, so no session state lasts beyond it: the first message of each transaction sets
the role and the settings, and no statement stays prepared."""

from __future__ import annotations

from typing import Any

from server.gateway.opener import INTRODUCTION, WEB_ROLE, Connection
from server.gateway.pool import Pool


class TransactionPool(Pool):
    """A Pool in which every call is a transaction: it takes four round trips, where a direct
    connection takes one."""

    connect_options = {"statement_cache_size": 0}
    keeps_its_server = False

    def session_settings(self, settings: dict[str, str]) -> dict[str, str]:
        """Returns no settings: a pooler refuses settings it does not know on connecting. They are
        set in each transaction."""
        given = dict(settings)
        name = given.pop("application_name")
        isolation = given.pop("default_transaction_isolation")
        self.begin = "; ".join(
            [
                f"BEGIN ISOLATION LEVEL {isolation.upper()}",
                f"SET LOCAL ROLE {WEB_ROLE}",
                *(f"SET LOCAL {setting} = '{value}'" for setting, value in given.items()),
            ]
        )
        return {"application_name": name}

    async def fetch(self, connection: Connection, sql: str, *arguments: Any) -> list[Any]:
        """As Pool.fetch, in a transaction of its own."""
        return await self.fetch_for(connection, None, sql, *arguments)

    async def introduce(self, connection: Connection) -> Any:
        """Checks at connect whether the login can give up its rights; every transaction does so
        again."""
        return (await self.fetch(connection, INTRODUCTION))[0]
