"""Stripe's payments and returns of money against the books, as an operator compares them."""

from __future__ import annotations

import json
import secrets
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

from server.encryption import Cipher
from server.payments.settings import seal_settings
from tests.ops.command_line import run
from tests.stripe_double import (
    StripeDouble,
)
from tests.support import (
    Database,
)

KEY = secrets.token_urlsafe(48)


USES, PRICE = 20, 500


Json = dict[str, Any]


def day(ago: int) -> str:
    return (datetime.now(UTC) - timedelta(days=ago)).date().isoformat()


class Shop:
    """Books and their Stripe. Purchases and payments are made as the server and its customers make
    them; what a test leaves out is what was lost."""

    def __init__(self, database: Database, double: StripeDouble) -> None:
        self.database = database
        self.double = double
        given = {"api_key": double.api_key, "webhook_secret": double.webhook_secret}
        self._call(
            "SELECT * FROM billing.set_provider_config(p_provider_type => 'stripe',"
            " p_config_data => %s::jsonb)",
            json.dumps(seal_settings("stripe", given, Cipher([KEY]))),
        )

    def _call(self, statement: str, *arguments: Any) -> list[Any]:
        return self.database.execute(statement, *arguments, user="t_dba")

    # What happened

    def offer(self, user: str) -> dict[str, str]:
        """Records a purchase; returns the metadata of its payment."""
        [(account_id, purchase_id)] = self._call(
            "SELECT account_id::text, purchase_id::text FROM billing.begin_purchase("
            "p_oauth_provider => 'oauth:google', p_external_id => %s,"
            " p_customer_email => 'ada@example.com')",
            user,
        )
        return {"account_id": account_id, "purchase_id": purchase_id, **named(user)}

    def pay(self, metadata: dict[str, str] | None = None, **params: Any) -> str:
        """Makes a payment through the Stripe account."""
        asked = {"amount": PRICE, "currency": "usd", **params}
        intent = self.double.create_intent(**asked, metadata=metadata or {})
        self.double.pay(intent["id"])
        return str(intent["id"])

    def buy(self, user: str, *, attached: bool = True, **params: Any) -> str:
        """A purchase that was paid and never reported; returns the payment's id. With `attached`
        false, the server died before it recorded the payment's id."""
        metadata = self.offer(user)
        payment_id = self.pay(metadata, **params)
        if attached:
            self._call(
                "SELECT * FROM billing.attach_payment(p_account_id => %s::uuid,"
                " p_purchase_id => %s::uuid, p_payment_id => %s,"
                " p_payment_status => 'requires_payment_method')",
                metadata["account_id"],
                metadata["purchase_id"],
                payment_id,
            )
        return payment_id

    def credit(self, payment_id: str, user: str | None = None) -> str:
        """Credits the payment as one of the present price; returns the outcome."""
        [(outcome,)] = self._call(
            "SELECT outcome FROM billing.settle_purchase(p_payment_id => %s, p_amount_minor => %s,"
            " p_oauth_provider => %s, p_external_id => %s, p_account_id => (SELECT a.id"
            " FROM billing_data.accounts AS a WHERE a.external_id = %s))",
            payment_id,
            PRICE,
            user and "oauth:google",
            user,
            user,
        )
        return str(outcome)

    def bought(self, user: str) -> str:
        """A purchase that was paid and credited; returns the payment's id."""
        payment_id = self.buy(user)
        assert self.credit(payment_id) == "credited"
        return payment_id

    def take_back(self, payment_id: str, subject: Json) -> None:
        """Reports the refund or dispute."""
        [(outcome,)] = self._call(
            "SELECT outcome FROM billing.return_payment(p_payment_id => %s, p_return_id => %s,"
            " p_kind => %s, p_amount_minor => %s)",
            payment_id,
            subject["id"],
            subject["object"],
            subject["amount"],
        )
        assert outcome == "taken_back"

    # What the command reports

    def environment(self, user: str = "t_dba", **changes: str) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database.dsn(user),
            "ENCRYPTION_KEY": KEY,
            "STRIPE_API_BASE": self.double.base_url,
            "STRIPE_TIMEOUT": "5",
            **changes,
        }

    def run(
        self, *options: str, since: str | None = None, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        command = ("reconcile", "stripe", "--since", since or day(1), *options)
        done = run(*command, environment=self.environment(**changes))
        for secret in (self.double.api_key, self.double.webhook_secret, KEY, "client_secret"):
            assert secret not in done.stdout + done.stderr
        return done

    def report(self, code: int, *options: str, note: str = "", **changes: str) -> Json:
        """The command's JSON, after checking its exit code and that it printed nothing else but a
        note."""
        done = self.run("--json", *options, **changes)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr == (f"ciris-billing: {note}\n" if note else "")
        report = json.loads(done.stdout)
        assert isinstance(report, dict)
        return report

    def agrees(self, payments: int, returns: int = 0, **changes: str) -> None:
        """Checks that both sides have this many payments and returns of money, and that nothing is
        left to fix."""
        report = self.report(0, "--fix", **changes)
        assert (report["differences"], report["remaining"]) == ([], 0)
        assert (report["payments_compared"], report["returns_compared"]) == (payments, returns)

    def ledger(self, user: str) -> list[int]:
        """The amounts that were credited to a user and taken back, oldest first."""
        rows = self.database.execute(
            "SELECT c.amount_minor FROM billing_data.credits AS c"
            " INNER JOIN billing_data.accounts AS a ON a.id = c.account_id"
            " WHERE a.external_id = %s ORDER BY c.ledger_version",
            user,
        )
        return [amount for (amount,) in rows]

    def verify(self) -> list[Any]:
        return self.database.execute("SELECT * FROM billing.verify_ledger()")


def named(user: str) -> dict[str, str]:
    return {"oauth_provider": "oauth:google", "external_id": user}


def found(report: Json) -> dict[str, tuple[str, bool, str | None]]:
    """Each difference by the id of its payment or return: kind, fixed, outcome."""
    differences = {
        one["return_id"] or one["payment_id"]: (one["kind"], one["fixed"], one["outcome"])
        for one in report["differences"]
    }
    assert len(differences) == len(report["differences"])
    return differences
