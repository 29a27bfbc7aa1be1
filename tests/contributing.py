"""The worked examples of docs/contributing.md: what somebody would change to add one thing, made on
a copy of the tree. One more kind of change is one more function here, named in EXAMPLES."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NEXT_STEP = "9999_the_example"


@dataclass
class Scratch:
    """A copy of the tree, and the files that an example has changed in it."""

    folder: Path
    changed: set[str] = field(default_factory=set)

    def add(self, path: str, text: str) -> None:
        """A new file, or more at the end of one that there is."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(before + text, encoding="utf-8")
        self.changed.add(path)

    def replace(self, path: str, old: str, new: str) -> None:
        """Puts `new` in the place of `old`, which must be there once."""
        text = (self.folder / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {text.count(old)} times: {old}"
        (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")
        self.changed.add(path)

    def insert(self, path: str, before: str, text: str) -> None:
        """Puts `text` before a text that must be there once."""
        self.replace(path, before, text + before)

    def rewrite(self, path: str, pattern: str, new: str) -> None:
        """Replaces every match of a pattern, of which there must be one."""
        text, count = re.subn(pattern, new, (self.folder / path).read_text(encoding="utf-8"))
        assert count, f"{path} has nothing like {pattern}"
        (self.folder / path).write_text(text, encoding="utf-8")
        self.changed.add(path)


COUNT_PLANS = """
-- How many accounts each plan has. Writes nothing. Errors: those of an actor.
-- Example: SELECT * FROM billing.count_plans();
CREATE OR REPLACE FUNCTION billing.count_plans(p_session_hash bytea DEFAULT NULL)
RETURNS TABLE (plan_name text, accounts bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM billing_data.authorize(NULL, p_session_hash, 'billing:read');
    RETURN QUERY
    SELECT a.plan_name::text, count(*)
    FROM billing_data.accounts AS a
    GROUP BY a.plan_name
    ORDER BY a.plan_name;
END
$$;
COMMENT ON FUNCTION billing.count_plans IS
    'Counts the accounts of each plan. For billing_server (staff) and billing_dba.';
GRANT EXECUTE ON FUNCTION billing.count_plans TO billing_server, billing_dba;
"""


def add_an_endpoint(tree: Scratch) -> None:
    """GET /admin/api/plans, which answers from a function that is new as well."""
    tree.add("sql/figures.sql", COUNT_PLANS)
    tree.add(
        "server/admin_api/plans.py",
        '''"""/admin/api/plans: how many accounts each plan has."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.gateway.calls import function_call
from server.http import fields as f
from server.http.answers import reader
from server.http.route import Example


class Plan(TypedDict):
    """A plan in figures."""

    plan_name: Annotated[str, f.means("The plan.")]
    accounts: Annotated[f.Count, f.means("Accounts that have the plan.")]


EXAMPLE = Example([{"plan_name": "free", "accounts": 1042}])

_COUNT_PLANS = function_call("count_plans", "session_hash", "plan_name accounts")
_plan = reader(Plan, _COUNT_PLANS.columns)


async def list_plans(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the plans that accounts have, by name."""
    return answer(200, [_plan(row) for row in await call.rows(_COUNT_PLANS)])
''',
    )
    tree.insert(
        "server/routes.py",
        "from server.admin_api import pricing as pricing_api\n",
        "from server.admin_api import plans as plans_api\n",
    )
    tree.insert(
        "server/routes.py",
        '        Route("GET", "/admin/api/analytics/daily", STAFF,',
        '        Route("GET", "/admin/api/plans", STAFF, plans_api.list_plans, "Count plans",\n'
        "              answer=list[plans_api.Plan], example=plans_api.EXAMPLE),\n",
    )


def add_a_page(tree: Scratch) -> None:
    """/admin/clock, in the navigation of the console."""
    tree.add(
        "server/admin_pages/clock.py",
        '''"""/admin/clock: what the time is here."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from server.admin_pages.page import render
from server.staff.guard import Visit


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """The clock."""
    return await render(visit, "admin/clock.html", now=datetime.now(UTC))
''',
    )
    tree.add(
        "templates/admin/clock.html",
        '{% extends "admin/base.html" %}\n'
        "{% block heading %}Clock{% endblock %}\n"
        "{% block content %}\n"
        "<p>It is {{ ui.time(now) }}.</p>\n"
        "{% endblock %}\n",
    )
    tree.insert(
        "server/routes.py",
        "from server.admin_pages import dashboard, sign_in\n",
        "from server.admin_pages import clock as clock_page\n",
    )
    tree.insert(
        "server/routes.py",
        '        Route("GET", "/admin/audit", PAGE,',
        '        Route("GET", "/admin/clock", PAGE, clock_page.show, "The time", tab="Clock"),\n',
    )


@dataclass(frozen=True)
class WorkedExample:
    """What an example adds, and how many files it may take."""

    make: Callable[[Scratch], None]
    most_files: int


# By the headings of docs/contributing.md.
EXAMPLES = {
    "A new endpoint": WorkedExample(add_an_endpoint, 3),
    "A new page": WorkedExample(add_a_page, 3),
}
