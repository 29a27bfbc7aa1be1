"""The two clients. They send and wait; what is sent and what an answer means is said once, for
both, in exchange.py and operations.py."""

from __future__ import annotations

import contextvars
import functools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, ParamSpec, Self, TypeVar

import anyio
import httpx2

from ciris_billing_client import operations
from ciris_billing_client.exchange import Lost, Operation, Options, Pause, Reply, Send, exchange
from ciris_billing_client.models import Transaction, User
from ciris_billing_client.uses import AsyncUse, Use
from ciris_billing_client.version import __version__

P = ParamSpec("P")
T = TypeVar("T")


class _Method(Generic[P, T]):
    """An operation as a method of a client. It has the operation's arguments; `give` makes what it
    returns of a client and of what the operation says."""

    def __init__(
        self, operation: Callable[P, Operation[Any]], give: Callable[[Any, Operation[Any]], T]
    ) -> None:
        self._operation, self._give = operation, give
        self.__doc__ = operation.__doc__

    def __get__(self, client: _Client | None, owner: type) -> Callable[P, T]:
        @functools.wraps(self._operation)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._give(client, self._operation(*args, **kwargs))

        return call


def _awaited(operation: Callable[P, Operation[T]]) -> _Method[P, Coroutine[Any, Any, T]]:
    return _Method(operation, lambda client, operation: client.run(operation))


def _called(operation: Callable[P, Operation[T]]) -> _Method[P, T]:
    return _Method(operation, lambda client, operation: client.run(operation))


class _Client:
    """What both clients know: where the service is, the key, and how long a call may take."""

    def __init__(self, base_url: str | None, api_key: str | None, options: Options) -> None:
        base_url = base_url or os.environ.get("CIRIS_BILLING_URL", "")
        api_key = api_key or os.environ.get("CIRIS_BILLING_API_KEY", "")
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("base_url or CIRIS_BILLING_URL must be a URL with http or https")
        if not api_key.startswith("cbk_") or not api_key.isascii() or not api_key.isprintable():
            raise ValueError("api_key or CIRIS_BILLING_API_KEY must be a key that begins with cbk_")
        self._base_url = base_url.rstrip("/")
        self._headers = {"X-API-Key": api_key, "User-Agent": f"ciris-billing-client/{__version__}"}
        self._options = options

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        retries: int | None = None,
    ) -> Self:
        """A client with other limits, over the same connections. `timeout` and `deadline` are
        seconds, for one attempt and for a whole call; `retries` says how often an attempt is
        repeated at most."""
        given = {"timeout": timeout, "deadline": deadline, "retries": retries}
        changes: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _options=replace(self._options, **changes))
        return other

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url!r})"  # never the key

    def _request(self, step: Send) -> dict[str, Any]:
        return {
            "method": step.method,
            "url": self._base_url + step.path,
            "params": step.query,
            "headers": {**self._headers, **step.headers},
            "content": step.content,
        }


class AsyncBilling(_Client):
    """The service, for code that awaits. One client serves a whole program; close it at the end, or
    use it as a context manager. The address and the API key may also be in CIRIS_BILLING_URL and
    CIRIS_BILLING_API_KEY."""

    check = _awaited(operations.check)
    charge = _awaited(operations.charge)
    batch = _awaited(operations.batch)
    reverse = _awaited(operations.reverse)
    use = _Method(operations.use, lambda client, first: AsyncUse(client.run, first))
    hold = _awaited(operations.hold)
    try_hold = _awaited(operations.try_hold)
    capture = _awaited(operations.capture)
    release = _awaited(operations.release)
    extend = _awaited(operations.extend)
    get_hold = _awaited(operations.get_hold)
    list_holds = _awaited(operations.list_holds)
    add_credits = _awaited(operations.add_credits)
    create_account = _awaited(operations.create_account)
    account = _awaited(operations.account)
    balance = _awaited(operations.balance)
    statement = _awaited(operations.statement)
    history_page = _awaited(operations.history_page)
    purchase = _awaited(operations.purchase)
    payment = _awaited(operations.payment)
    set_top_up = _awaited(operations.set_top_up)
    get_top_up = _awaited(operations.get_top_up)
    end_top_up = _awaited(operations.end_top_up)

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = Options.timeout,
        deadline: float = Options.deadline,
        retries: int = Options.retries,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        super().__init__(base_url, api_key, Options(timeout, deadline, retries))
        self._http = http or httpx2.AsyncClient()

    async def history(self, user: User, *, page_size: int = 50) -> AsyncIterator[Transaction]:
        """Every entry of the user's history, newest first, read page by page."""
        _check_page_size(page_size)
        page = await self.history_page(user, limit=page_size)
        while True:
            for entry in page.transactions:
                yield entry
            if page.next_cursor is None:
                return
            page = await self.history_page(user, limit=page_size, cursor=page.next_cursor)

    async def run(self, operation: Operation[T]) -> T:
        """Carries an operation out."""
        steps = exchange(operation, self._options)
        step = next(steps)
        try:
            while True:
                step = steps.send(await self._do(step))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Send | Pause) -> Reply | Lost | None:
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            return None
        try:
            with anyio.fail_after(step.timeout):
                answer = await self._http.request(**self._request(step), timeout=None)
        except (httpx2.RequestError, TimeoutError) as error:
            return _lost(error)
        return Reply(answer.status_code, _lowered(answer.headers), answer.content)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Billing(_Client):
    """The service, for code that waits. One client serves a whole program and its threads; close it
    at the end, or use it as a context manager. The address and the API key may also be in
    CIRIS_BILLING_URL and CIRIS_BILLING_API_KEY."""

    check = _called(operations.check)
    charge = _called(operations.charge)
    batch = _called(operations.batch)
    reverse = _called(operations.reverse)
    use = _Method(operations.use, lambda client, first: Use(client.run, first))
    hold = _called(operations.hold)
    try_hold = _called(operations.try_hold)
    capture = _called(operations.capture)
    release = _called(operations.release)
    extend = _called(operations.extend)
    get_hold = _called(operations.get_hold)
    list_holds = _called(operations.list_holds)
    add_credits = _called(operations.add_credits)
    create_account = _called(operations.create_account)
    account = _called(operations.account)
    balance = _called(operations.balance)
    statement = _called(operations.statement)
    history_page = _called(operations.history_page)
    purchase = _called(operations.purchase)
    payment = _called(operations.payment)
    set_top_up = _called(operations.set_top_up)
    get_top_up = _called(operations.get_top_up)
    end_top_up = _called(operations.end_top_up)

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = Options.timeout,
        deadline: float = Options.deadline,
        retries: int = Options.retries,
        http: httpx2.Client | None = None,
    ) -> None:
        super().__init__(base_url, api_key, Options(timeout, deadline, retries))
        self._http = http or httpx2.Client()
        self._process = None if http else os.getpid()

    def history(self, user: User, *, page_size: int = 50) -> Iterator[Transaction]:
        """Every entry of the user's history, newest first, read page by page."""
        _check_page_size(page_size)
        page = self.history_page(user, limit=page_size)
        while True:
            yield from page.transactions
            if page.next_cursor is None:
                return
            page = self.history_page(user, limit=page_size, cursor=page.next_cursor)

    def run(self, operation: Operation[T]) -> T:
        """Carries an operation out."""
        steps = exchange(operation, self._options)
        step = next(steps)
        try:
            while True:
                step = steps.send(self._do(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Send | Pause) -> Reply | Lost | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        if self._process not in (None, os.getpid()):
            # A forked process shares the connections, and would read another one's answers.
            self._http, self._process = httpx2.Client(), os.getpid()
        # httpx2 bounds each connecting, sending and receiving, but neither their sum nor looking up
        # a name. So another thread makes the attempt, and this one waits only as long as it may.
        attempt: Future[Reply | Lost] = Future()
        with_context = contextvars.copy_context().run
        arguments = (self._attempt, step, attempt)
        threading.Thread(target=with_context, args=arguments, daemon=True).start()
        try:
            return attempt.result(step.timeout)
        except TimeoutError as error:
            return _lost(error)

    def _attempt(self, step: Send, attempt: Future[Reply | Lost]) -> None:
        end = time.monotonic() + step.timeout
        try:
            with self._http.stream(**self._request(step), timeout=step.timeout) as answer:
                parts = []
                for part in answer.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > end:  # nobody waits any more
                        raise httpx2.ReadTimeout("no answer in time")
            attempt.set_result(Reply(answer.status_code, _lowered(answer.headers), b"".join(parts)))
        except httpx2.RequestError as error:
            attempt.set_result(_lost(error))
        except BaseException as error:
            attempt.set_exception(error)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_page_size(page_size: int) -> None:
    if page_size < 1:  # the service answers an empty page, which leads to itself
        raise ValueError("a page has at least one entry")


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _lost(error: Exception) -> Lost:
    return Lost(str(error) or "no answer in time")
