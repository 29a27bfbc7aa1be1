"""Connections through a pooler in transaction mode (PgBouncer). Each transaction may meet another
server connection, so nothing lasts beyond it: the role and the settings are given in its first
message, and no statement stays prepared."""

from __future__ import annotations

from typing import Any

from server.gateway.pool import INTRODUCTION, WEB_ROLE, Connection, Pool


class TransactionPool(Pool):
    """A Pool whose every call is a transaction: four round trips where a connection of one's own
    needs one."""

    connect_options = {"statement_cache_size": 0}
    keeps_its_server = False

    def session_settings(self, settings: dict[str, str]) -> dict[str, str]:
        """A pooler refuses settings it does not know when one connects; they go with each
        transaction."""
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
        """Every transaction gives the login's rights away; this finds out at connect whether it
        can."""
        return (await self.fetch(connection, INTRODUCTION))[0]
