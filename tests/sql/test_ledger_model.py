"""Drives the billing functions at random and compares every answer with a small model in Python.

The model is contract.md 7 in as few lines as possible. After every step the database is asked
directly about balances, the chain of ledger rows, and sums, and whether a refused or replayed call
changed nothing. A failure prints the steps and a blob to repeat them with."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from psycopg.rows import dict_row

from tests.support import Database

USERS = ("ada", "ben")
KEYS = (None, "k1", "k2", "k3", "k4")
BIG = 2**63 - 1
FREE_USES = 3

users = st.sampled_from(USERS)
keys = st.sampled_from(KEYS)
amounts = st.one_of(st.integers(1, 4), st.sampled_from((1, 20, BIG)))
currencies = st.sampled_from(("USD", "USD", "USD", "EUR"))
charges = st.fixed_dictionaries(
    {"user": users, "amount": amounts, "key": keys, "currency": currencies}
)


@dataclass
class Entry:
    """A charge or a credit that can be reversed: what it gave or took, and what is left of that."""

    id: Any
    amount: int
    left: int
    free: bool = False


@dataclass
class Account:
    """An account according to the rules."""

    free: int = FREE_USES
    paid: int = 0
    uses: int = 0
    version: int = 0
    status: str = "active"
    email: str | None = None
    charge_keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    credit_keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    charges: list[Entry] = field(default_factory=list)
    credits: list[Entry] = field(default_factory=list)
    given_back: int = 0  # free uses

    def charge(self, amount: int, key: str | None, currency: str) -> str:
        """The outcome of a charge, and its effect when it is created."""
        request = (amount, currency)
        if key in self.charge_keys:
            return "replayed" if self.charge_keys[key] == request else "conflict"
        if self.status != "active":
            return f"account_{self.status}"
        if currency != "USD":
            return "charge_currency_mismatch"
        if self.free > 0:
            self.free -= 1
        elif self.paid >= amount:
            self.paid -= amount
        else:
            return "insufficient_credits"
        self.uses += 1
        self.version += 1
        if key is not None:
            self.charge_keys[key] = request
        return "created"

    def credit(self, amount: int, key: str | None, currency: str) -> str:
        """The outcome of a credit, and its effect when it is created."""
        request = (amount, currency)
        if key in self.credit_keys:
            return "replayed" if self.credit_keys[key] == request else "conflict"
        if currency != "USD":
            return "credit_currency_mismatch"
        if self.paid + amount > BIG:
            return "balance_overflow"
        self.paid += amount
        self.version += 1
        if key is not None:
            self.credit_keys[key] = request
        return "created"

    def reverse(self, entry: Entry, asked: int | None, key: str | None, sign: int) -> str:
        """The outcome of reversing a charge (sign 1) or a credit (-1), and its effect."""
        request = ("reversal", entry.id, asked)
        if key in self.credit_keys:
            return "replayed" if self.credit_keys[key] == request else "idempotency_key_reused"
        if entry.left == 0:
            return "already_reversed"
        if asked is not None and asked > entry.left:
            return "reversal_too_great"
        amount = entry.left if asked is None else asked
        if entry.free and amount < entry.amount:
            return "free_use_is_whole"
        change = 0 if entry.free else sign * amount
        if not 0 <= self.paid + change <= BIG:
            return "insufficient_credits" if change < 0 else "balance_overflow"
        entry.left -= amount
        self.paid += change
        self.free += entry.free
        self.given_back += entry.free
        self.version += 1
        if key is not None:
            self.credit_keys[key] = request
        return "created"


class LedgerMachine(RuleBasedStateMachine):
    """Two users and few keys, so that replays, conflicts and the boundary at zero happen often."""

    database: Database  # set by the test
    steps = 0  # over all runs
    run = 0  # the number of this run: each run has users of its own

    def __init__(self) -> None:
        super().__init__()
        self.web = psycopg.connect(
            self.database.dsn("t_web"), autocommit=True, row_factory=dict_row
        )
        self.dba = psycopg.connect(
            self.database.dsn("t_dba"), autocommit=True, row_factory=dict_row
        )
        self.owner = psycopg.connect(self.database.dsn(), autocommit=True, row_factory=dict_row)
        self.model: dict[str, Account] = {}

    @initialize()
    def fresh_identities(self) -> None:
        LedgerMachine.run += 1
        self.api_key = self.database.create_key().id

    def identity(self, user: str) -> str:
        return f"{user}-{LedgerMachine.run}"

    def one(self, connection: psycopg.Connection[Any], sql: str, **arguments: Any) -> Any:
        row = connection.execute(sql, arguments).fetchone()
        assert row is not None
        return row

    @rule(user=users, email=st.sampled_from((None, "ada@example.com", "ben@example.com")))
    def check(self, user: str, email: str | None) -> None:
        row = self.one(
            self.web,
            "SELECT * FROM billing.check_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %(id)s, p_customer_email => %(email)s, p_api_key_id => %(key)s)",
            id=self.identity(user),
            email=email,
            key=self.api_key,
        )
        account = self.model.setdefault(user, Account())
        account.email = email or account.email
        assert row["credits_remaining"] == account.paid
        assert row["free_uses_remaining"] == account.free
        assert row["total_uses"] == account.uses
        allowed = account.status == "active" and account.free + account.paid > 0
        assert row["has_credit"] is allowed
        assert row["purchase_required"] is (account.status == "active" and not allowed)

    @rule(charge=charges, by_web=st.booleans())
    def charge_one(self, charge: dict[str, Any], by_web: bool) -> None:
        """The function for one charge, called by an agent's key or by a DBA."""
        expected = self.expected_charge(charge)
        slug = "charge_already_exists" if expected in ("replayed", "conflict") else expected
        try:
            row = self.one(
                self.web if by_web else self.dba,
                "SELECT * FROM billing.create_charge(p_oauth_provider => 'oauth:google',"
                " p_external_id => %(id)s, p_amount_minor => %(amount)s,"
                " p_currency => %(currency)s, p_idempotency_key => %(key)s,"
                " p_api_key_id => %(api_key)s)",
                id=self.identity(charge["user"]),
                amount=charge["amount"],
                currency=charge["currency"],
                key=charge["key"],
                api_key=self.api_key if by_web else None,
            )
        except psycopg.Error as error:
            refused_with = error.diag.constraint_name
            assert refused_with == slug
        else:
            assert slug == "created"
            assert row["balance_after"] == self.model[charge["user"]].paid
            assert row["free_uses_after"] == self.model[charge["user"]].free
            self.remember_charge(charge, row)

    def remember_charge(self, charge: dict[str, Any], row: dict[str, Any]) -> None:
        amount = charge["amount"]
        entry = Entry(row["charge_id"], amount, amount, row["paid_with"] == "free")
        self.model[charge["user"]].charges.append(entry)

    @rule(batch=st.lists(charges, min_size=1, max_size=8), wait=st.booleans())
    def charge_many(self, batch: list[dict[str, Any]], wait: bool) -> None:
        """The function for a list: its items take effect in their order."""
        expected = [self.expected_charge(charge) for charge in batch]
        rows = self.web.execute(
            "SELECT * FROM billing.create_charges(p_oauth_providers => %(providers)s,"
            " p_external_ids => %(ids)s, p_amounts_minor => %(amounts)s::bigint[],"
            " p_currencies => %(currencies)s, p_descriptions => %(descriptions)s,"
            " p_idempotency_keys => %(keys)s::text[], p_api_key_ids => %(api_keys)s::uuid[],"
            " p_wait => %(wait)s)",
            {
                "providers": ["oauth:google"] * len(batch),
                "ids": [self.identity(charge["user"]) for charge in batch],
                "amounts": [charge["amount"] for charge in batch],
                "currencies": [charge["currency"] for charge in batch],
                "descriptions": ["one use"] * len(batch),
                "keys": [charge["key"] for charge in batch],
                "api_keys": [self.api_key] * len(batch),
                "wait": wait,
            },
        ).fetchall()
        outcomes = {row["item"]: row["outcome"] for row in rows}
        assert [outcomes[number] for number in range(1, len(batch) + 1)] == expected
        for row in rows:
            if row["outcome"] == "created":
                self.remember_charge(batch[row["item"] - 1], row)

    def expected_charge(self, charge: dict[str, Any]) -> str:
        account = self.model.get(charge["user"])
        if account is None:
            return "account_not_found"
        return account.charge(charge["amount"], charge["key"], charge["currency"])

    @rule(user=users, amount=amounts, key=keys, currency=currencies)
    def credit(self, user: str, amount: int, key: str | None, currency: str) -> None:
        account = self.model.get(user)
        expected = account.credit(amount, key, currency) if account else "account_not_found"
        row = self.one(
            self.web,
            "SELECT * FROM billing.record_credit(p_oauth_provider => 'oauth:google',"
            " p_external_id => %(id)s, p_amount_minor => %(amount)s, p_currency => %(currency)s,"
            " p_transaction_type => 'grant', p_description => 'a gift',"
            " p_idempotency_key => %(key)s, p_api_key_id => %(api_key)s)",
            id=self.identity(user),
            amount=amount,
            currency=currency,
            key=key,
            api_key=self.api_key,
        )
        assert row["outcome"] == expected
        if account and expected == "created":
            account.credits.append(Entry(row["credit_id"], amount, amount))

    @rule(
        user=users,
        of_charge=st.booleans(),
        newest=st.integers(1, 4),
        request=st.tuples(st.one_of(st.none(), amounts), keys, st.sampled_from((0, 0, 1))),
    )
    def reverse(
        self, user: str, of_charge: bool, newest: int, request: tuple[int | None, str | None, int]
    ) -> None:
        """Reverses one of the newest charges or credits, whole or in part, or tries to."""
        asked, key, dry_run = request
        account = self.model.get(user, Account())
        entries = account.charges if of_charge else account.credits
        if len(entries) < newest:
            return
        entry, noun = entries[-newest], "charge" if of_charge else "credit"
        sign = 1 if of_charge else -1
        tried = deepcopy(account) if dry_run else account
        tried_entry = (tried.charges if of_charge else tried.credits)[-newest]
        expected = tried.reverse(tried_entry, asked, key, sign)
        try:
            row = self.one(
                self.dba,
                f"SELECT * FROM billing.reverse_{noun}(p_{noun}_id => %(id)s,"
                " p_reason => 'a test', p_amount => %(asked)s, p_idempotency_key => %(key)s,"
                " p_dry_run => %(dry_run)s)",
                id=entry.id,
                asked=asked,
                key=key,
                dry_run=bool(dry_run),
            )
        except psycopg.Error as error:
            refused_with = error.diag.constraint_name
            assert refused_with == expected
        else:
            assert expected == ("replayed" if row["replayed"] else "created")
            assert row["reversed_minor"] == tried_entry.amount - tried_entry.left
            if expected == "created":
                assert row["balance_after"] == tried.paid

    @rule(user=users, status=st.sampled_from(("active", "active", "suspended", "closed")))
    def set_status(self, user: str, status: str) -> None:
        if user in self.model:
            self.one(
                self.dba,
                "SELECT * FROM billing.set_account_status(p_oauth_provider => 'oauth:google',"
                " p_external_id => %(id)s, p_status => %(status)s, p_reason => 'a test')",
                id=self.identity(user),
                status=status,
            )
            self.model[user].status = status

    @invariant()
    def books_agree(self) -> None:
        type(self).steps += 1
        for user in USERS:
            account = self.model.get(user)
            rows = self.owner.execute(
                "SELECT * FROM billing_data.accounts WHERE external_id = %s",
                (self.identity(user),),
            ).fetchall()
            assert len(rows) == (1 if account else 0)
            if account is None:
                continue
            row = rows[0]
            assert row["paid_credits"] == account.paid >= 0
            assert row["free_uses_remaining"] == account.free >= 0
            assert row["total_uses"] == account.uses
            assert row["ledger_version"] == account.version
            assert row["status"] == account.status
            assert row["customer_email"] == account.email
            self.ledger_agrees(row["id"], account)

    def ledger_agrees(self, account_id: Any, account: Account) -> None:
        entries = self.owner.execute(
            "SELECT ledger_version, balance_before, balance_after, amount_minor, paid_with"
            " FROM billing_data.charges WHERE account_id = %(id)s"
            " UNION ALL SELECT ledger_version, balance_before, balance_after, amount_minor,"
            " 'credit'"
            " FROM billing_data.credits WHERE account_id = %(id)s ORDER BY 1",
            {"id": account_id},
        ).fetchall()
        assert [entry["ledger_version"] for entry in entries] == list(range(1, account.version + 1))
        balance = 0
        for entry in entries:
            change = {"free": 0, "paid": -entry["amount_minor"], "credit": entry["amount_minor"]}
            assert entry["balance_before"] == balance
            balance += change[entry["paid_with"]]
            assert entry["balance_after"] == balance >= 0
        assert balance == account.paid
        free = sum(entry["paid_with"] == "free" for entry in entries)
        paid = sum(entry["paid_with"] == "paid" for entry in entries)
        assert free + account.free == FREE_USES + account.given_back
        assert free + paid == account.uses

    def teardown(self) -> None:
        for connection in (self.web, self.dba, self.owner):
            connection.close()


@pytest.fixture
def machine(database: Database) -> type[LedgerMachine]:
    """The machine on a database of its own."""
    LedgerMachine.database = database
    LedgerMachine.steps = 0
    return LedgerMachine


def test_functions_agree_with_the_model_after_every_step(machine: type[LedgerMachine]) -> None:
    examples = max(60, settings.default.max_examples) if settings.default else 60
    machine.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, print_blob=True
    )
    machine.TestCase("runTest").runTest()
    print(f"{machine.steps} steps checked")
    assert machine.steps >= 2000
    assert machine.database.execute("SELECT * FROM billing.verify_ledger()", user="t_dba") == []
