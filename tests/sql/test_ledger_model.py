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


def other_of(user: str) -> str:
    """The other one of the two."""
    return USERS[1 - USERS.index(user)]


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
    touched: int = 0  # changes beside the ledger
    former: list[Account] = field(default_factory=list)  # the merged one by whose name one asks

    def used(self, key: str | None, name: str) -> list[tuple[Any, ...]]:
        """The requests under a key, that of a merged account first."""
        return [
            getattr(account, name)[key]
            for account in (*self.former, self)
            if key in getattr(account, name)
        ]

    def charge(self, amount: int, key: str | None, currency: str) -> str:
        """The outcome of a charge, and its effect when it is created."""
        request = (amount, currency)
        for used in self.used(key, "charge_keys"):
            return "replayed" if used == request else "conflict"
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
        for used in self.used(key, "credit_keys"):
            return "replayed" if used == request else "conflict"
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
        if used := self.used(key, "credit_keys"):
            return "replayed" if request in used else "idempotency_key_reused"
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

    def move(self, other: Account, amount: int) -> str:
        """The outcome of moving credits to another account, and its effect."""
        if self.status != "active":
            return "account_not_active"
        if self.paid < amount:
            return "insufficient_credits"
        if other.paid + amount > BIG:
            return "balance_overflow"
        self.shift(-amount, 0)
        other.shift(amount, 0)
        return "created"

    def shift(self, credits: int, free: int) -> None:
        """One side of a transfer or merge; a row is written where something moves."""
        self.paid += credits
        self.free += free
        self.given_back += free
        self.version += bool(credits or free)


@dataclass
class Merge:
    """What a merge moved, and what the account that took it was after it."""

    moved: int
    taken: int
    given: int
    version: int
    touched: int


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
        self.merges: dict[str, Merge] = {}  # by the merged user; there are only two

    def account(self, user: str) -> Account | None:
        """The account that a user's identity leads to."""
        found = self.model.get(user)
        if user not in self.merges:
            for account in self.model.values():
                account.former = []
            return found
        stays = self.model[other_of(user)]
        stays.former = [self.model[user]]
        return stays

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
        account = self.account(user) or self.model.setdefault(user, Account())
        account.touched += email not in (None, account.email)
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
            account = self.account(charge["user"])
            assert account is not None
            assert row["balance_after"] == account.paid
            assert row["free_uses_after"] == account.free
            self.remember_charge(charge, row)

    def remember_charge(self, charge: dict[str, Any], row: dict[str, Any]) -> None:
        amount = charge["amount"]
        entry = Entry(row["charge_id"], amount, amount, row["paid_with"] == "free")
        account = self.account(charge["user"])
        assert account is not None
        account.charges.append(entry)

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
        account = self.account(charge["user"])
        if account is None:
            return "account_not_found"
        return account.charge(charge["amount"], charge["key"], charge["currency"])

    @rule(user=users, amount=amounts, key=keys, currency=currencies)
    def credit(self, user: str, amount: int, key: str | None, currency: str) -> None:
        account = self.account(user)
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
        owner = self.model.get(user, Account())
        account = self.account(user) or owner
        entries = owner.charges if of_charge else owner.credits
        if len(entries) < newest:
            return
        entry, noun = entries[-newest], "charge" if of_charge else "credit"
        sign = 1 if of_charge else -1
        tried_owner, tried = deepcopy((owner, account)) if dry_run else (owner, account)
        tried_entry = (tried_owner.charges if of_charge else tried_owner.credits)[-newest]
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
        account = self.account(user)
        if account is not None:
            self.one(
                self.dba,
                "SELECT * FROM billing.set_account_status(p_oauth_provider => 'oauth:google',"
                " p_external_id => %(id)s, p_status => %(status)s, p_reason => 'a test')",
                id=self.identity(user),
                status=status,
            )
            account.touched += status != account.status
            account.status = status

    def staff_call(self, function: str, user: str, **more: Any) -> tuple[str, dict[str, Any]]:
        """The outcome of a call about a user's account, and perhaps the other's, and its answer."""
        if len(self.model) < 2:
            return "account_not_found", {}
        ids = {
            name: self.one(
                self.owner,
                "SELECT id FROM billing_data.accounts WHERE external_id = %(name)s",
                name=self.identity(name),
            )
            for name in USERS
        }
        named = {
            "transfer_credits": ("from_account_id", "to_account_id"),
            "merge_accounts": ("account_id", "into_account_id"),
            "undo_merge": ("account_id",),
        }[function]
        more |= dict(zip(named, (ids[user]["id"], ids[other_of(user)]["id"]), strict=False))
        arguments = ", ".join(f"p_{name} => %({name})s" for name in more)
        try:
            row = self.one(
                self.dba,
                f"SELECT * FROM billing.{function}(p_reason => 'a test', {arguments})",
                **more,
            )
        except psycopg.Error as error:
            return error.diag.constraint_name or "", {}
        return "replayed" if row["replayed"] else "created", row

    @rule(user=users, amount=amounts, key=keys, dry_run=st.sampled_from((False, False, True)))
    def transfer(self, user: str, amount: int, key: str | None, dry_run: bool) -> None:
        """Moves credits to the other user's account, or tries to."""
        giving, taking = self.account(user), self.model.get(other_of(user))
        outcome, row = self.staff_call(
            "transfer_credits", user, amount=amount, idempotency_key=key, dry_run=dry_run
        )
        if giving is None or taking is None:
            assert outcome == "account_not_found"
            return
        request = ("transfer", other_of(user), amount)
        if used := giving.used(key, "credit_keys"):
            assert outcome == ("replayed" if request in used else "idempotency_key_reused")
        elif self.merges:
            assert outcome == "accounts_are_one"
        else:
            tried = deepcopy((giving, taking)) if dry_run else (giving, taking)
            assert outcome == tried[0].move(tried[1], amount)
            if outcome == "created":
                assert (row["from_balance_after"], row["to_balance_after"]) == (
                    tried[0].paid,
                    tried[1].paid,
                )
                if key is not None and not dry_run:
                    giving.credit_keys[key] = request

    @rule(user=users, dry_run=st.sampled_from((False, False, True)))
    def merge(self, user: str, dry_run: bool) -> None:
        """Merges a user's account into the other's, or tries to."""
        outcome, row = self.staff_call("merge_accounts", user, dry_run=dry_run)
        if len(self.model) < 2:
            assert outcome == "account_not_found"
            return
        one, other = self.model[user], self.model[other_of(user)]
        if self.merges:
            assert outcome == "accounts_are_one"
        elif one.status != "active" or (one.paid + other.paid <= BIG and other.status != "active"):
            assert outcome == "account_not_active"
        elif one.paid + other.paid > BIG:
            assert outcome == "balance_overflow"
        else:
            assert outcome == "created"
            together = min(one.free + other.free, max(one.free, other.free, FREE_USES))
            moved, taken, given = one.paid, one.free, together - other.free
            assert (row["credits_moved"], row["free_uses_given"]) == (moved, given)
            if not dry_run:
                one.shift(-moved, -taken)
                other.shift(moved, given)
                one.status = "merged"
                self.merges[user] = Merge(moved, taken, given, other.version, other.touched)

    @rule(user=users, dry_run=st.sampled_from((False, False, True)))
    def undo_merge(self, user: str, dry_run: bool) -> None:
        """Undoes the merge of a user's account, or tries to."""
        outcome, _ = self.staff_call("undo_merge", user, dry_run=dry_run)
        if user not in self.merges:
            assert outcome in ("account_not_merged", "account_not_found")
            return
        merge, one, other = self.merges[user], self.model[user], self.model[other_of(user)]
        if (other.version, other.touched) != (merge.version, merge.touched):
            assert outcome == "merge_stands"
            return
        assert outcome == "created"
        if not dry_run:
            other.shift(-merge.moved, -merge.given)
            one.shift(merge.moved, merge.taken)
            one.status = "active"
            del self.merges[user]

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
