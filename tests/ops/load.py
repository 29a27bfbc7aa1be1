"""Clients that charge without pause and record the answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiohttp

from tests.support import Database, Service, charge_body, credit_body, identity, unique


def account_with_credits(service: Service, amount: int = 1_000_000, name: str = "user") -> str:
    """A new user with no free uses and `amount` credits."""
    user = unique(name)
    with service.client() as client:
        for path, body in (
            ("credits/check", identity(user)),
            *[("charges", charge_body(user))] * 3,
            ("credits", credit_body(user, amount)),
        ):
            answer = client.post(f"/v1/billing/{path}", json=body)
            assert answer.status_code in (200, 201), answer.text
    return user


class Load:
    """Clients that charge the users in turn, each charge with an Idempotency-Key of its own.

    With `insist`, a request that is not answered 201 is sent again under its key until it is, on a
    new connection if necessary. Without it, a client ends when its connection does. Each client
    rests for `pause` seconds after a charge."""

    def __init__(
        self,
        service: Service,
        users: Sequence[str],
        *,
        clients: int = 24,
        insist: bool = False,
        tls: ssl.SSLContext | bool = True,
        pause: float = 0,
    ) -> None:
        self._service = service
        self._users = users
        self._clients = clients
        self._insist = insist
        self._tls = tls
        self._pause = pause
        self._stopping = False
        self.charged: dict[str, str] = {}  # key -> charge id, of requests answered 201
        self.unanswered: set[str] = set()  # keys of requests whose connection broke
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Charges until the block ends, and then waits until no request is under way."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks = [
                asyncio.create_task(self._client(session, number))
                for number in range(self._clients)
            ]
            try:
                yield self
            finally:
                self._stopping = True
                await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def more_answers(self, count: int, timeout: float = 30) -> None:
        """Returns after `count` more answers 201."""
        enough = len(self.charged) + count
        async with asyncio.timeout(timeout):
            while len(self.charged) < enough:
                await asyncio.sleep(0.01)

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stopping:
            key = f"load-{number}-{secrets.token_hex(8)}"
            user = self._users[number % len(self._users)]
            while not await self._charge(session, key, user):
                if not self._insist:
                    return
                await asyncio.sleep(0.02)  # as a client does that was told to try again
            await asyncio.sleep(self._pause)

    async def _charge(self, session: aiohttp.ClientSession, key: str, user: str) -> bool:
        url = f"{self._service.base_url}/v1/billing/charges"
        headers = {"X-API-Key": self._service.key.secret, "Idempotency-Key": key}
        try:
            async with session.post(url, json=charge_body(user), headers=headers) as answer:
                body = await answer.json()
        except aiohttp.ClientConnectorError:
            return False  # the request was never sent
        except aiohttp.ClientError:
            self.unanswered.add(key)
            return False
        self.statuses[answer.status] += 1
        if answer.status == 201:
            self.unanswered.discard(key)
            self.charged[key] = body["charge_id"]
            return True
        if answer.status != 503 or "Retry-After" not in answer.headers:
            self.wrong.append(f"{answer.status} {body}")
        return False

    def check_against(self, database: Database) -> None:
        """Checks that every answer is true: each 201 is one row, nothing was charged twice or
        without an answer, and the books agree."""
        assert self.wrong == []
        rows = database.execute(
            "SELECT idempotency_key, id::text FROM billing_data.charges"
            " WHERE idempotency_key LIKE 'load-%'"
        )
        assert len(dict(rows)) == len(rows)
        assert dict(rows) == self.charged
        assert database.execute("SELECT * FROM billing.verify_ledger()") == []
