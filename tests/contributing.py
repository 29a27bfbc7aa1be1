"""The worked examples of docs/contributing.md: the changes that somebody would make to add one
thing, made on a copy of the tree. Another kind of change is another function here, named in
EXAMPLES."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from server.resources import latest_step

NEXT_STEP = "9999_the_example"


@dataclass
class Scratch:
    """A copy of the tree, and the files that an example has changed in it."""

    folder: Path
    changed: set[str] = field(default_factory=set)

    def add(self, path: str, text: str) -> None:
        """Adds a new file, or text at the end of an existing one."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(before + text, encoding="utf-8")
        self.changed.add(path)

    def replace(self, path: str, old: str, new: str) -> None:
        """Replaces `old`, which must occur once, by `new`."""
        text = (self.folder / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{path} has {text.count(old)} times: {old}"
        (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")
        self.changed.add(path)

    def insert(self, path: str, before: str, text: str) -> None:
        """Inserts `text` before a text that must occur once."""
        self.replace(path, before, text + before)

    def rewrite(self, path: str, pattern: str, new: str) -> None:
        """Replaces every match of a pattern; there must be at least one."""
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
    """GET /admin/api/plans, whose answer comes from a function that is new as well."""
    tree.add("sql/figures.sql", COUNT_PLANS)
    tree.add(
        "server/admin_api/plans.py",
        '''"""/admin/api/plans: how many accounts each plan has."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from typing_extensions import TypedDict

from server.admin_api.endpoint import Call, answer
from server.gateway import functions
from server.http import fields as f
from server.http.answers import reader
from server.http.route import Example


class Plan(TypedDict):
    """A plan in figures."""

    plan_name: Annotated[str, f.means("The plan.")]
    accounts: Annotated[f.Count, f.means("Accounts that have the plan.")]


EXAMPLE = Example([{"plan_name": "free", "accounts": 1042}])

_plan = reader(Plan, functions.count_plans.columns)


async def list_plans(request: web.Request, call: Call) -> web.StreamResponse:
    """Lists the plans that accounts have, by name."""
    return answer(200, [_plan(row) for row in await call.rows(functions.count_plans())])
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


COINBOX = '''"""Coinbox, a payment provider: people put coins into a box. It asks nobody, so
its payments are those of this process."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from server.config import ProviderConnection
from server.payments.provider import (
    Claim,
    Console,
    InvalidEvent,
    ListedPayment,
    NotConfigured,
    Payment,
    PaymentEvent,
    PaymentMissing,
    PaymentProvider,
    ProviderApi,
    ProviderSettings,
    Purchase,
    Refund,
    RequestRefused,
    ReturnListing,
    Setting,
    Step,
    Webhook,
    WrongSignature,
)


class CoinboxApi:
    """The box."""

    def __init__(self) -> None:
        self._payments: dict[str, Payment] = {}

    async def begin_payment(self, purchase: Purchase) -> Payment:
        """Waits for the coins."""
        claim = Claim(True, False, UUID(purchase.account_id), UUID(purchase.purchase_id))
        payment = Payment(
            f"coin-{purchase.purchase_id}",
            "slot 7",
            purchase.price_minor,
            purchase.currency,
            "waiting",
            claim,
        )
        return self._payments.setdefault(payment.id, payment)

    async def get_payment(self, payment_id: str) -> Payment:
        """A payment that was begun here."""
        if payment_id not in self._payments:
            raise PaymentMissing
        return self._payments[payment_id]

    async def refund(self, refund: Refund) -> str:
        """A box gives nothing back."""
        raise RequestRefused("a box gives nothing back")

    async def complete(self, event: PaymentEvent) -> PaymentEvent:
        """Events are complete."""
        return event

    async def list_payments(self, since: datetime) -> AsyncIterator[ListedPayment]:
        """Those that were begun here; another process has none."""
        for payment in self._payments.values():
            now = datetime.now(UTC)
            yield ListedPayment(payment.id, payment.amount_minor, payment.currency, now, False)

    def list_returns(self, since: datetime) -> Sequence[ReturnListing]:
        """The box gives nothing back."""
        return ()

    async def test(self) -> None:
        """Every key opens the box."""

    async def close(self) -> None:
        """Has no connections."""


class Coinbox:
    """See above."""

    kind = "coinbox"
    name = "Coinbox"
    credential = "box_key"
    slow_modules = ()
    settings = (
        Setting(
            "box_key",
            "Box key",
            pattern=r"box_\\S+",
            shape="a box key: box_...",
            invalid="Give a box key: it begins with box_.",
            hint="It hangs beside the box.",
            missing="There is no box key: nothing can be sold.",
        ),
        Setting(
            "seal",
            "Seal",
            pattern=r"seal_\\S+",
            shape="a seal: seal_...",
            invalid="Give a seal: it begins with seal_.",
            hint="It is below the box.",
            missing="There is no seal: payments cannot be credited.",
            may_be_several=True,
        ),
    )
    webhook = Webhook("Coinbox-Seal", "Made by Coinbox from the body and the seal.", ("coins",))
    console = Console(
        disabled="Coinbox is disabled.",
        steps=(Step("Tell the box the address", then="and the events", has_address=True),),
        unreachable="The box reaches https addresses only.",
    )

    def payment_page(self, payment_id: str, is_test: bool) -> str | None:
        """There is none."""
        return None

    def client_key(self, settings: ProviderSettings) -> str:
        """Nobody needs a key to pay."""
        return ""

    async def connect(
        self, settings: ProviderSettings, connection: ProviderConnection
    ) -> ProviderApi:
        """The box."""
        return CoinboxApi()

    def example_event(
        self, event_id: str, payment_id: str, purchase: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Coins that were put in."""
        return {"id": event_id, "payment": payment_id, "coins": 500, "for": purchase}

    def read_event(self, settings: ProviderSettings, signature: str, body: bytes) -> PaymentEvent:
        """Coins that were put in."""
        seals = settings.all_of("seal")
        if not seals:
            raise NotConfigured
        if all(hmac.digest(s.encode(), body, "sha256").hex() != signature for s in seals):
            raise WrongSignature("it has another seal")
        event = orjson.loads(body)
        if not isinstance(event, dict) or "id" not in event:
            raise InvalidEvent("it has no id")
        return PaymentEvent(
            id=event["id"],
            type="coins",
            livemode=None,
            payload=body.decode(),
            claim=Claim(is_claimed=True),
            action="settle",
            payment_id=event["payment"],
            amount_minor=event["coins"],
            currency="USD",
        )


PROVIDER: PaymentProvider = Coinbox()
'''


def add_a_payment_provider(tree: Scratch) -> None:
    """Coinbox: it can be set up, it sells, and it settles the payments that it reports as paid."""
    tree.add("server/payments/coinbox/__init__.py", COINBOX)
    tree.replace("server/payment_kinds.py", '    "stripe",\n', '    "stripe",\n    "coinbox",\n')
    tree.add(
        f"migrations/{NEXT_STEP}.sql",
        f"-- One more payment provider.\n-- depends: {latest_step()}\n"
        "SET LOCAL lock_timeout = '1s';\n"
        "INSERT INTO billing_data.payment_providers (\n"
        "    kind, name, place, is_offered, payment_id_prefix, credential, listed_settings\n"
        ")\n"
        "VALUES ('coinbox', 'Coinbox', 4, true, 'coin-', 'box_key', '{seal}');\n",
    )
    tree.add(
        f"migrations/{NEXT_STEP}.rollback.sql",
        "DELETE FROM billing_data.payment_providers AS p\nWHERE p.kind = 'coinbox';\n",
    )


def add_a_field_to_charges(tree: Scratch) -> None:
    """`thread_id`: accepted, part of the request's fingerprint, stored and answered. Servers of the
    release before go on using the version of the item that they know."""
    tree.add(
        f"migrations/{NEXT_STEP}.sql",
        f"-- A charge says which thread it belongs to.\n-- depends: {latest_step()}\n"
        "SET LOCAL lock_timeout = '1s';\n"
        "ALTER TABLE billing_data.charges ADD COLUMN thread_id text;\n",
    )
    tree.add(
        f"migrations/{NEXT_STEP}.rollback.sql",
        "ALTER TABLE billing_data.charges DROP COLUMN thread_id;\n",
    )
    tree.replace(
        "sql/items.sql",
        "            ('charge_item', 1, 'metadata_request_id', 'text'),\n",
        "            ('charge_item', 1, 'metadata_request_id', 'text'),\n"
        "            ('charge_item', 2, 'thread_id', 'text'),\n",
    )
    tree.replace(
        "sql/items.sql",
        "            ('charge_outcome', 1, 'cap', 'jsonb'),\n",
        "            ('charge_outcome', 1, 'cap', 'jsonb'),\n"
        "            ('charge_outcome', 1, 'thread_id', 'text'),\n",
    )
    # The new version of the type and of the functions that take it.
    charges_sql = "sql/charges.sql"
    tree.rewrite(
        charges_sql, r"\bbilling\.(charge_items?(?:_once)?|settle_items_once)\b", r"billing.\1_2"
    )
    _store_thread_id(tree, charges_sql)
    charges = "server/agent/charges.py"
    tree.rewrite(
        charges,
        r"(    metadata: Annotated\[ChargeMetadata, .*\n)",
        r"\1    thread_id: Annotated[Text255 | None, _THREAD_ID] = None\n",
    )
    tree.rewrite(
        charges,
        r"(    metadata: Annotated\[f\.Origin, .*\n)",
        r"\1    thread_id: Annotated[str | None, _THREAD_ID]\n",
    )
    tree.insert(
        charges,
        "\n\nclass ChargeMetadata(RequestModel):",
        '\n_THREAD_ID = f.means("The thread that the charge belongs to.")\n',
    )
    tree.rewrite(charges, r'(    "paid_with": "free",\n)', r'    "thread_id": None,\n\1')


def _store_thread_id(tree: Scratch, charges: str) -> None:
    """Makes the functions store and return the field."""
    tree.replace(
        charges,
        "        length((p_item).metadata_request_id), length((p_item).customer_email),\n",
        "        length((p_item).metadata_request_id), length((p_item).thread_id),\n"
        "        length((p_item).customer_email),\n",
    )
    tree.replace(
        charges,
        "    # billing_data.field_hash('metadata_request_id', (p_item).metadata_request_id)\n",
        "    # billing_data.field_hash('metadata_request_id', (p_item).metadata_request_id)\n"
        "    # billing_data.field_hash('thread_id', (p_item).thread_id)\n",
    )
    # The columns of both INSERTs, and their values.
    tree.rewrite(
        charges,
        r"metadata_request_id, created_at,\n",
        "metadata_request_id, thread_id, created_at,\n",
    )
    tree.replace(
        charges,
        "            (w.asked).metadata_request_id, p_now, w.fingerprint, w.api_key_id, p_role,\n",
        "            (w.asked).metadata_request_id, (w.asked).thread_id, p_now, w.fingerprint,\n"
        "            w.api_key_id, p_role,\n",
    )
    tree.replace(
        charges,
        "            p_metadata_request_id, created_at, v_fingerprint, v_api_key_id, v_role,\n",
        "            p_metadata_request_id, p_thread_id, created_at, v_fingerprint, v_api_key_id,\n"
        "            v_role,\n",
    )
    # The outcome of an item: when its key was used before, and when the charge is new.
    tree.replace(
        charges,
        "    false, p_cap\n)::billing.charge_outcome;",
        "    false, p_cap, (p_used).thread_id\n)::billing.charge_outcome;",
    )
    tree.replace(
        charges,
        "                (w.asked).metadata_request_id, NULL, NULL, false, NULL\n",
        "                (w.asked).metadata_request_id, NULL, NULL, false, NULL,\n"
        "                (w.asked).thread_id\n",
    )
    # The function for a single charge.
    tree.replace(
        charges,
        "    p_metadata_request_id text DEFAULT NULL,\n",
        "    p_metadata_request_id text DEFAULT NULL,\n    p_thread_id text DEFAULT NULL,\n",
    )
    tree.replace(
        charges,
        "        p_metadata_request_id, p_customer_email, p_user_role, p_agent_id,",
        "        p_metadata_request_id, p_thread_id, p_customer_email, p_user_role, p_agent_id,",
    )


@dataclass(frozen=True)
class WorkedExample:
    """What an example adds, and how many files it may take."""

    make: Callable[[Scratch], None]
    most_files: int


# By the headings of docs/contributing.md.
EXAMPLES = {
    "A new field of a charge": WorkedExample(add_a_field_to_charges, 5),
    "A new endpoint": WorkedExample(add_an_endpoint, 3),
    "A new page": WorkedExample(add_a_page, 3),
    "A new payment provider": WorkedExample(add_a_payment_provider, 4),
}
