"""A line of the route table, which has all facts about one operation, and the words for the
guards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

PUBLIC = "public"
INTERNAL = "internal"  # private addresses only, and never through the proxy
PAGE = "page"  # a page of the console for signed-in staff; redirects others to the sign-in page
OPEN_PAGE = "open page"  # a page of the console that is shown before signing in
STAFF = "staff"  # a bearer token of a staff member, or their browser session
SIGNED = "signed"  # a call of the payment provider, signed with the webhook's secret

Handler = Callable[..., Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Example:
    """A request and its answer. `values` are those of the path and the query string. The tests send
    every example to a running server."""

    answer: Any = None
    request: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error whose body has more fields than others: its code, the type of its body, and an
    example of these fields. `status` is for a code that is not in error_codes.ERROR_CODES."""

    code: str
    body: Any
    example: Mapping[str, Any]
    status: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One URL. `guard` is one of the words above, or the permission that an API key needs. The
    handler's docstring is the operation's description, and its name is the operation's id.

    `errors` are the codes beyond those of every operation with this guard and these models.
    `success` is the status of the example, and `successes` are further ones with the same answer.
    `guard_errors` are those of a handler that itself identifies its caller. `headers` come with a
    success. Without `content_type` the answer has no body. With `secret`, an error never repeats
    what was sent. A page with a `tab` is in the console's navigation under that name."""

    method: str
    path: str
    guard: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    parameters: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    answer: Any = None
    example: Example = Example()
    errors: tuple[str | ErrorAnswer, ...] = ()
    success: int = 200
    successes: tuple[int, ...] = ()
    idempotent: bool | str = False
    headers: tuple[str, ...] = ()
    content_type: str = "application/json"
    guard_errors: tuple[str, ...] = ()
    secret: bool = False
    tab: str = ""

    def __post_init__(self) -> None:
        # A key that nobody reads would let a repeated request act twice.
        assert self.idempotent or self.example.idempotency_key is None, self.path

    @property
    def is_described(self) -> bool:
        """Whether the API's description contains it."""
        return self.guard not in (INTERNAL, PAGE, OPEN_PAGE)

    @property
    def is_for_agents(self) -> bool:
        """Whether it needs an API key."""
        return self.guard.startswith("billing:")

    @property
    def writes(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """Routes that belong together, in the route table and in the API's description."""

    name: str
    text: str
    routes: tuple[Route, ...]
