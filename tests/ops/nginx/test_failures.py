"""Servers that fail behind nginx, its template, and its logs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import ssl
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import psutil

from tests.http.contract import account_path, assert_error
from tests.nginx import UNLIMITED, Nginx, defaults, render, running_nginx
from tests.ops.load import Load, account_with_credits
from tests.ops.nginx.helpers import CHARGES, Upstream, raw
from tests.support import (
    Database,
    Service,
    charge_body,
    credit_body,
    free_port,
    has_two_workers_beside,
    identity,
    running_service,
    unique,
    wait_for,
    worker_pids,
)


def test_when_a_server_is_down_the_others_serve(server: Service) -> None:
    down = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    user = account_with_credits(server)
    with (
        running_nginx([down[0], server.base_url, down[1]], **UNLIMITED) as proxy,
        proxy.client(headers={"X-API-Key": server.key.secret}) as client,
    ):
        for _ in range(20):
            assert client.get("/health").status_code == 200
            answer = client.post(CHARGES, json=charge_body(user))
            assert answer.status_code == 201, answer.text
            assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_when_all_servers_are_down_it_is_a_503_to_try_again(server: Service) -> None:
    down = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    with running_nginx(down, **UNLIMITED) as proxy, proxy.client() as client:
        for method, path in (("GET", "/health"), ("POST", CHARGES), ("GET", "/admin")):
            answer = client.request(method, path)
            assert_error(answer, 503, "Service temporarily unavailable, please retry")
            assert answer.json()["code"] == "unavailable"
            assert answer.headers["retry-after"] == "1"
        assert client.get("/static/base.css").status_code == 200
        proxy.reload([server.base_url])
        assert client.get("/health").status_code == 200


def test_a_post_that_was_sent_is_never_sent_again(server: Service) -> None:
    """The server that closed the connection may have charged."""
    user = account_with_credits(server)
    with (
        Upstream("hang up") as broken,
        running_nginx([broken.url, server.base_url], **UNLIMITED) as proxy,
        proxy.client(headers={"X-API-Key": server.key.secret}) as client,
    ):
        statuses = []
        while len(broken.requests) < 1:
            answer = client.post(CHARGES, json=charge_body(user))
            statuses.append(answer.status_code)
        assert set(statuses) <= {201, 503}
        assert statuses.count(503) == len(broken.requests) == 1
        charged = server.database.value(
            "SELECT count(*) FROM billing_data.charges AS c"
            " JOIN billing_data.accounts AS a ON a.id = c.account_id"
            " WHERE a.external_id = %s AND c.paid_with = 'paid'",
            user,
        )
        assert charged == statuses.count(201)
    with (
        Upstream("hang up") as broken,
        running_nginx([broken.url, server.base_url], **UNLIMITED) as proxy,
        proxy.client() as client,
    ):
        # A GET may be.
        while not broken.requests:
            assert client.get("/health").status_code == 200


async def test_killed_workers_mid_load_cost_no_charge_twice_and_lose_none(
    database: Database,
) -> None:
    with (
        running_service(database, workers=2) as one,
        running_service(database, workers=2) as two,
        running_nginx([one.base_url, two.base_url], **UNLIMITED) as proxy,
    ):
        outside = dataclasses.replace(one, base_url=proxy.url)
        users = [await asyncio.to_thread(account_with_credits, one) for _ in range(4)]
        load = Load(outside, users, clients=12, insist=True, tls=proxy.tls)
        careless = _Careless(outside, users[0], proxy.tls)
        async with load.running(), careless.running():
            for server in (one, two):
                await load.more_answers(150)
                before = worker_pids(server.process)
                # The one that works most: nginx's connections may all lead to one worker.
                victim = max(before, key=lambda pid: sum(psutil.Process(pid).cpu_times()[:2]))
                psutil.Process(victim).kill()
                await asyncio.to_thread(
                    wait_for,
                    partial(has_two_workers_beside, server.process, victim),
                    "a new worker",
                )
            await load.more_answers(150)
        killed = [line for line in proxy.log() if line["status"] == 503]
    print(f"answered: {dict(load.statuses)}; without a key: {dict(careless.statuses)}")
    # The requests that were under way with each, and nothing else.
    assert 0 < len(killed) <= 2 * (12 + 8)
    assert load.unanswered == set()
    load.check_against(database)
    # Without a key and never sent again: everything that was answered 201 is there, and nothing
    # twice.
    assert set(careless.statuses) <= {201, 503}
    rows = database.execute(
        "SELECT description, id::text FROM billing_data.charges WHERE description LIKE 'careless-%'"
    )
    assert len(dict(rows)) == len(rows)
    assert careless.charged.items() <= dict(rows).items()
    assert len(rows) <= careless.sent
    assert database.execute("SELECT * FROM billing.verify_ledger()") == []


class _Careless:
    """Clients that charge without an idempotency key, each charge with a description of its own,
    and accept whatever comes."""

    def __init__(self, service: Service, user: str, tls: ssl.SSLContext) -> None:
        self._service = service
        self._user = user
        self._tls = tls
        self._stopping = False
        self.sent = 0
        self.charged: dict[str, str] = {}
        self.statuses: dict[int, int] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls)
        async with aiohttp.ClientSession(connector=connector) as session:
            tasks = [asyncio.create_task(self._client(session)) for _ in range(8)]
            try:
                yield self
            finally:
                self._stopping = True
                await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def _client(self, session: aiohttp.ClientSession) -> None:
        url = f"{self._service.base_url}{CHARGES}"
        headers = {"X-API-Key": self._service.key.secret}
        while not self._stopping:
            name = unique("careless")
            self.sent += 1
            body = charge_body(self._user, description=name)
            async with session.post(url, json=body, headers=headers) as answer:
                content = await answer.json()
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
            if answer.status == 201:
                self.charged[name] = content["charge_id"]
            else:
                assert answer.headers["Retry-After"] == "1"


async def test_servers_are_replaced_one_after_the_other_and_no_request_fails(
    database: Database,
) -> None:
    """As docs/deploy.md says: each server is stopped and started again while the other one
    serves."""
    with running_service(database) as one, contextlib.ExitStack() as stack:
        two = stack.enter_context(running_service(database))
        users = [await asyncio.to_thread(account_with_credits, one) for _ in range(4)]
        places = [service.base_url.removeprefix("http://") for service in (one, two)]
        proxy = stack.enter_context(running_nginx([one.base_url, two.base_url], **UNLIMITED))
        outside = dataclasses.replace(one, base_url=proxy.url)
        load = Load(outside, users, insist=True, tls=proxy.tls, pause=0.05)
        log = Path(proxy.variables["PROXY_ACCESS_LOG"])
        async with load.running():
            for old, place in zip((one, two), places, strict=True):
                await load.more_answers(100)
                assert await asyncio.to_thread(old.process.stop) == 0
                await load.more_answers(100)
                port = int(place.rpartition(":")[2])
                stack.enter_context(running_service(database, port=port))
                begun = log.stat().st_size

                def is_used(place: str = place, begun: int = begun) -> bool:
                    return f'"{place}"' in log.read_text()[begun:]

                await asyncio.to_thread(wait_for, is_used, "the new server to be used")
    print(f"answered: {dict(load.statuses)}")
    assert set(load.statuses) == {201}
    assert load.unanswered == set()
    load.check_against(database)


# The template, and logs


def test_the_template_is_filled_in_as_the_official_image_does_it(tree: Path) -> None:
    """The official image uses envsubst with the names that begin with PROXY_; the helper of these
    tests does the same."""
    template = (tree / "nginx" / "templates" / "billing.conf.template").read_text()
    names = " ".join(f"${{{name}}}" for name in defaults())
    filled = subprocess.run(
        ["envsubst", names],
        check=True,
        input=template,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **defaults(), "host": "not to be filled in"},
    ).stdout
    assert render(template, defaults()) == filled
    assert "PROXY_" not in filled
    assert "$host" in (tree / "nginx" / "snippets" / "to_server.conf").read_text()


def test_no_log_tells_who_was_asked_about_or_by_whom(
    proxy: Nginx, client: httpx2.Client, server: Service
) -> None:
    user, email = unique("whoever"), f"{unique('mail')}@example.com"
    identity_in_query = {**identity(user), "customer_email": email}
    client.post(CHARGES, json=charge_body(user, customer_email=email))
    client.get(account_path(user))
    client.get(f"{account_path(user)}/statement")
    client.post(f"{CHARGES}/{user}/reverse", json={})
    client.get("/v1/billing/transactions", params=identity_in_query)
    client.get(f"/{user}", params=identity_in_query)
    client.get(f"/admin/accounts?q={user}", headers={"Referer": f"https://x.example/{user}"})
    method = "".join(letter for letter in unique("WHO").upper() if letter.isalpha()) * 3
    client.request(method, "/health")
    client.post(f"/v1/billing/credits?{user}", json=credit_body(user), content=None)
    client.post(f"/v1/billing/credits?{user}", content=b"x" * 2_000_000)
    raw(proxy, f"/{user}%zz")
    with running_nginx(
        [f"http://127.0.0.1:{free_port()}"], PROXY_RATE_BILLING="1r/m", PROXY_BURST_BILLING="1"
    ) as broken:
        with broken.client(headers={"X-API-Key": server.key.secret}) as other:
            statuses = {other.get(account_path(user)).status_code for _ in range(5)}
            assert statuses == {503, 429}
        wait_for(lambda: sum(line["status"] in statuses for line in broken.log()) == 5, "the log")
        written = broken.everything_written()
    wait_for(
        lambda: [line for line in proxy.log() if line["method"] == "other"], "what is logged last"
    )
    written += proxy.everything_written()
    for secret in (user, method, email, server.key.secret[:20]):
        assert secret not in written
    by_route = {line["route"]: line for line in proxy.log()}
    account = "/v1/billing/accounts/{oauth_provider}/{external_id}"
    assert {f"{account}/statement", "/v1/billing/charges/{charge_id}/reverse"} <= by_route.keys()
    line = by_route[account]
    assert line["upstream"] == server.base_url.removeprefix("http://")
    assert line["tls"] == "TLSv1.3"


def test_it_serves_ipv6_too(server: Service) -> None:
    with running_nginx([server.base_url], ipv6=True) as proxy:
        answer = httpx2.get(f"{proxy.url}/health", verify=proxy.tls)
        assert answer.status_code == 200
        wait_for(
            lambda: [line for line in proxy.log() if line["route"] == "/health"], "nginx's log"
        )
        assert {line["client"] for line in proxy.log()} == {"::1"}
