"""The LiteLLM hook of the client package, called as LiteLLM's proxy calls it. litellm itself is not
installed: the hook does without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ciris_billing_client import AsyncBilling, User
from ciris_billing_client.litellm_hook import BillingHook, RequestRefused

from tests.run import free_port
from tests.support import Service, unique

REQUEST = {"model": "gpt", "metadata": {"team": "red"}}


class Proxy:
    """The parts of LiteLLM's proxy that call the hook, for a user with ten credits."""

    def __init__(self, service: Service, billing: AsyncBilling) -> None:
        self.billing = billing
        self.hook = BillingHook(billing, up_to=5, credits_per_dollar=100)
        self.user = User("oauth:litellm", unique())
        self.key = SimpleNamespace(end_user_id=None, user_id=self.user.external_id)
        self.database = service.database

    async def begin(self, **request: Any) -> dict[str, Any]:
        """What goes on to the model."""
        return await self.hook.async_pre_call_hook(
            self.key, None, {**REQUEST, **request}, "acompletion"
        )

    async def succeed(self, request: dict[str, Any], cost: float | None) -> None:
        """The model has answered."""
        facts = {"litellm_params": {"metadata": request["metadata"]}, "response_cost": cost}
        await self.hook.async_log_success_event(facts, None, None, None)

    async def fail(self, request: dict[str, Any]) -> None:
        """Every retry and fallback has failed."""
        await self.hook.async_post_call_failure_hook(request, Exception(), self.key)

    async def figures(self) -> tuple[int, int]:
        """Paid credits, and what of it is not held."""
        check = await self.billing.check(self.user)
        balance = await self.billing.balance(self.user)
        assert balance.paid_credits is not None
        assert check.credits_remaining is not None
        return balance.paid_credits, check.credits_remaining


@pytest.fixture
async def proxy(service: Service) -> AsyncIterator[Proxy]:
    async with AsyncBilling(service.base_url, service.key.secret) as billing:
        proxy = Proxy(service, billing)
        await billing.check(proxy.user)
        for _ in range(3):
            await billing.charge(proxy.user)
        await billing.add_credits(proxy.user, 10, description="welcome")
        yield proxy


@pytest.mark.parametrize(
    ("cost", "left"),
    [(0.03, 7), (0.0301, 6), (0.0, 10), (None, 5), (0.07, 3), (99.0, 0)],
    ids=["whole", "rounded up", "nothing", "unknown", "more than held", "more than there is"],
)
async def test_a_request_holds_credits_and_is_settled_by_its_cost(
    proxy: Proxy, cost: float | None, left: int
) -> None:
    request = await proxy.begin()
    assert request["metadata"]["team"] == "red"
    assert await proxy.figures() == (10, 5)
    await proxy.succeed(request, cost)
    assert await proxy.figures() == (left, left)
    await proxy.succeed(request, cost)  # once is enough
    await proxy.fail(request)
    assert await proxy.figures() == (left, left)
    assert REQUEST["metadata"] == {"team": "red"}


async def test_a_failed_request_gives_everything_back(proxy: Proxy) -> None:
    request = await proxy.begin(metadata=None)
    await proxy.fail(request)
    assert await proxy.figures() == (10, 10)


async def test_requests_of_one_user_hold_beside_each_other_and_no_more_than_there_is(
    proxy: Proxy,
) -> None:
    begun = await asyncio.gather(*(proxy.begin() for _ in range(3)), return_exceptions=True)
    requests = [one for one in begun if isinstance(one, dict)]
    [refused] = [one for one in begun if isinstance(one, RequestRefused)]
    assert (len(requests), refused.status_code) == (2, 402)
    assert "insufficient_credits" in refused.message
    for request in requests:
        await proxy.succeed(request, 0.01)
    assert await proxy.figures() == (8, 8)


async def test_a_request_cannot_reach_the_hold_of_another(proxy: Proxy) -> None:
    first = await proxy.begin()
    second = await proxy.begin(metadata=dict(first["metadata"]))
    await proxy.fail(second)
    assert await proxy.figures() == (10, 5)
    await proxy.fail({"metadata": {"ciris_billing_hold": ["a", "list"]}})
    await proxy.fail({})
    await proxy.succeed(first, 0.02)
    assert await proxy.figures() == (8, 8)


async def test_a_new_user_gets_an_account_and_nobodys_request_is_refused(proxy: Proxy) -> None:
    proxy.key.end_user_id = unique()
    request = await proxy.begin()
    await proxy.succeed(request, 0.01)
    check = await proxy.billing.check(User("oauth:litellm", proxy.key.end_user_id))
    assert check.free_uses_remaining == 2
    proxy.key = SimpleNamespace()
    with pytest.raises(RequestRefused) as refused:
        await proxy.begin()
    assert refused.value.status_code == 400


async def test_while_the_service_is_away_requests_are_refused_and_answers_are_kept(
    proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    request = await proxy.begin()
    async with AsyncBilling(f"http://127.0.0.1:{free_port()}", "cbk_test_x", retries=0) as away:
        proxy.hook._billing = away
        with pytest.raises(RequestRefused) as refused:
            await proxy.begin()
        assert refused.value.status_code == 503
        await proxy.succeed(request, 0.01)
    assert "could not be settled" in caplog.text
