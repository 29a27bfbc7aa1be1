"""`python -m bench.thin FD DSN DIGEST`: one process of the thin service that the real one is
compared with: aiohttp and the functions of thin.sql, where requests that arrive together are sent
as one call. It checks the key (whose SHA-256 is DIGEST) and the body's shape. It has no metrics,
request ids, actors or Argon2."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import psycopg
import uvloop
from aiohttp import web

from bench.data import PROVIDER, Contents
from tests.support import Database

_FUNCTIONS = Path(__file__).parent / "thin.sql"
_LARGEST = 128  # items in one call
_STATUSES = {"created": 201, "duplicate": 409, "insufficient": 402, "not_active": 403}
_CHARGE = "SELECT * FROM thin.charge_batch($1, $2, $3, $4, $5)"
_CHECK = "SELECT * FROM thin.check_batch($1, $2)"


# --- for the benchmark ---------------------------------------------------------------------------


def make(database: Database, contents: Contents) -> None:
    """Adds thin.sql beside the service's schema, with as many accounts and charges. The first three
    charges of an account are free, as the service's are."""
    accounts, charges, left = contents.accounts, contents.charges, contents.credits_left
    free = min(charges, 3)
    statements = (
        f"""
        INSERT INTO thin.accounts (oauth_provider, external_id, paid_credits, free_uses_remaining,
            total_uses, credits_given)
        SELECT '{PROVIDER}', 'user-' || k, {left}, {3 - free}, {charges}, {left} + {charges - free}
        FROM generate_series(0, {accounts - 1}) AS g (k)""",
        f"""
        INSERT INTO thin.charges (account_id, amount_minor, currency, balance_before,
            balance_after, used_free, description, idempotency_key)
        SELECT a.id, 1, 'USD', a.credits_given - greatest(i - {free}, 0),
            a.credits_given - greatest(i - {free - 1}, 0), i < {free}, 'Message interaction',
            'k' || i * {accounts} + a.id - 1
        FROM generate_series(0, {charges - 1}) AS g (i) CROSS JOIN thin.accounts AS a""",
        "VACUUM ANALYZE thin.accounts, thin.charges, thin.credit_checks",
    )
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute(_FUNCTIONS.read_bytes())
        for statement in statements:
            connection.execute(statement.encode())


def written(database: Database, kind: str) -> int:
    """How many checks or charges the books of the thin service hold."""
    counts = {
        "check": "SELECT coalesce(max(c.id), 0) FROM thin.credit_checks AS c",
        "charge": "SELECT sum(a.total_uses)::bigint FROM thin.accounts AS a",
    }
    return int(database.value(counts[kind]))


def wrong_books(database: Database) -> int:
    """How many of its accounts do not agree with their charges."""
    return int(database.value("SELECT count(*) FROM thin.wrong_accounts()"))


@contextlib.contextmanager
def running_thin(database: Database, key: str, workers: int) -> Iterator[tuple[str, list[int]]]:
    """Its URL and process ids, until the block ends."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(workers)]
        port = 0
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(2048)  # as the server's; early connections wait here
            port = listener.getsockname()[1]
        digest = hashlib.sha256(key.encode()).hexdigest()
        processes = [_start(listener, database.dsn(), digest) for listener in listeners]
        stack.callback(_stop, processes)
        for process in processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError("the thin service did not start")
        yield f"http://127.0.0.1:{port}", [process.pid for process in processes]


def _start(listener: socket.socket, dsn: str, digest: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench.thin", str(listener.fileno()), dsn, digest]
    return subprocess.Popen(
        command,
        pass_fds=[listener.fileno()],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate(timeout=15)


# --- the service ---------------------------------------------------------------------------------


class _Batches:
    """Sends everything that has arrived in one call; what arrives meanwhile goes with the next
    call."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    def submit(self, item: tuple[Any, ...]) -> asyncio.Future[Any]:
        """The row that answers an item."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return answer

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_LARGEST], self._waiting[_LARGEST:]
            columns = zip(*(item for item, _ in batch), strict=True)
            try:
                rows = await self._statement.fetch(*map(list, columns))
            except (asyncpg.PostgresError, OSError) as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), row in zip(batch, rows, strict=True):
                    if not answer.done():
                        answer.set_result(row)
        self._sender = None


class _Service:
    def __init__(self, digest: str, charges: _Batches, checks: _Batches) -> None:
        self._keys = {bytes.fromhex(digest)}
        self._charges, self._checks = charges, checks

    async def charge(self, request: web.Request) -> web.Response:
        body = self._body(request, await request.read())
        amount, key = body.get("amount_minor"), body.get("idempotency_key")
        description = _text(body, "description")
        currency = _text(body, "currency")
        if type(amount) is not int or amount <= 0:
            raise _Refused(422, "amount_minor")
        if key is not None:
            _text(body, "idempotency_key")
        row = await self._charges.submit((*_identity(body), amount, description, key))
        if row["outcome"] != "created":
            raise _Refused(_STATUSES.get(row["outcome"], 404), row["outcome"])
        answer = {
            "charge_id": str(row["charge_id"]),
            "account_id": row["account_id"],
            "amount_minor": amount,
            "currency": currency,
            "balance_after": row["balance_after"],
            "created_at": row["created_at"].isoformat(),
            "description": description,
            "metadata": {
                "message_id": None,
                "agent_id": None,
                "channel_id": None,
                "request_id": None,
            },
        }
        return _answer(201, answer)

    async def check(self, request: web.Request) -> web.Response:
        body = self._body(request, await request.read())
        row = await self._checks.submit(_identity(body))
        if row["outcome"] != "checked":
            raise _Refused(404, row["outcome"])
        answer = {
            "has_credit": row["has_credit"],
            "credits_remaining": row["paid_credits"],
            "plan_name": row["plan_name"],
            "reason": None if row["has_credit"] else "no credit",
            "free_uses_remaining": row["free_uses_remaining"],
            "total_uses": row["total_uses"],
            "purchase_required": not row["has_credit"],
            "purchase_price_minor": None,
            "purchase_uses": None,
        }
        return _answer(200, answer)

    def _body(self, request: web.Request, sent: bytes) -> dict[str, Any]:
        key = request.headers.get("X-API-Key", "")
        if hashlib.sha256(key.encode()).digest() not in self._keys:
            raise _Refused(401, "key")
        try:
            body = orjson.loads(sent)
        except orjson.JSONDecodeError:
            raise _Refused(422, "body") from None
        if type(body) is not dict:
            raise _Refused(422, "body")
        return body


def _identity(body: dict[str, Any]) -> tuple[str, str]:
    provider = _text(body, "oauth_provider")
    if not provider.startswith("oauth:"):
        raise _Refused(422, "oauth_provider")
    return provider, _text(body, "external_id")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if type(value) is not str or not 0 < len(value) <= 255:
        raise _Refused(422, name)
    return value


def _answer(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


class _Refused(web.HTTPException):
    def __init__(self, status: int, detail: str) -> None:
        self.status_code = status
        text = orjson.dumps({"detail": detail}).decode()
        super().__init__(text=text, content_type="application/json")


async def _serve(listener: socket.socket, dsn: str, digest: str) -> None:
    """Serves until SIGTERM, which ends the process."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit)
    batches = []
    for sql in (_CHARGE, _CHECK):
        connection = await asyncpg.connect(dsn, server_settings={"jit": "off"})
        batches.append(_Batches(await connection.prepare(sql)))
    service = _Service(digest, *batches)
    app = web.Application()
    app.router.add_post("/v1/billing/charges", service.charge)
    app.router.add_post("/v1/billing/credits/check", service.check)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    print("ready", flush=True)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1])), *sys.argv[2:4]))
