"""The rounds: load, faults, and after each round the comparison with the ledger."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

import aiohttp
from psycopg.rows import dict_row

from tests.torture.clients import PATIENCE, PROVIDER, Client
from tests.torture.faults import FAULTS, Fault
from tests.torture.history import History, matches
from tests.torture.hold_proof import compare_holds, count_holds, find_stuck
from tests.torture.model import WrongAnswer
from tests.torture.stage import Stage, running_stage

CLIENTS = 10
HOT_ACCOUNTS = 2
_HOT_CREDITS = 1_000_000
SCARCE_ACCOUNTS = 3  # shared, too; clients hold their credits
_SCARCE_CREDITS = 40
_RECOVERY = 60.0  # seconds until every client must have been answered again
_VERIFY_EVERY = 50  # in rounds, because it reads the whole ledger


@dataclass
class Report:
    """The result of the rounds. Each of the first five lists must be empty."""

    seed: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    overspent: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)  # what is held for ever
    rounds: int = 0
    answers: int = 0
    refusals: int = 0
    writes: int = 0
    holds: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return self.lost + self.doubled + self.overspent + self.wrong + self.stuck

    def text(self) -> str:
        """The report for people."""
        recoveries = sorted(self.recoveries) or [0.0]
        return "\n".join(
            [
                f"seed {self.seed}: {self.rounds} rounds, {self.answers} answers,"
                f" {self.refusals} refused or broken off, {self.writes} writes acknowledged",
                f"lost {len(self.lost)}, doubled {len(self.doubled)},"
                f" overspent {len(self.overspent)}, wrong {len(self.wrong)},"
                f" held for ever {len(self.stuck)}",
                "holds: " + ", ".join(f"{count} {what}" for what, count in self.holds.items()),
                "answered again after"
                f" {recoveries[len(recoveries) // 2]:.1f} s (median),"
                f" {recoveries[-1]:.1f} s (longest)",
                "struck: " + ", ".join(f"{n} {count}" for n, count in sorted(self.struck.items())),
                *self.faults[:20],
            ]
        )


async def torture(
    rounds: int,
    seed: int,
    *,
    faults: Mapping[str, Fault] = FAULTS,
    tell: Callable[[str], None] = print,
    each_once: bool = False,
) -> Report:
    """Runs this many rounds and reports. A round that cannot be ended is a fault and the last one.
    With `each_once` two faults happen in each round, and none happens twice before every other has
    happened once."""
    report = Report(seed)
    async with running_stage() as stage:
        able = [name for name in faults if name != "full disk" or stage.has_own_disk]
        if len(able) < len(faults):
            tell("left out: full disk, since only root can make a small file system")
        waiting: list[str] = []
        for number in range(1, rounds + 1):
            rng = Random(f"{seed}-{number}")
            if each_once:
                waiting += rng.sample(able, len(able)) if len(waiting) < 2 else []
                chosen, waiting = waiting[:2], waiting[2:]
            else:
                chosen = rng.sample(able, min(len(able), rng.randint(1, 2)))
            round_ = Round(stage, report, number, rng)
            began, known = time.monotonic(), set(report.faults)
            try:
                await round_.run([(name, faults[name]) for name in chosen])
            except Exception as error:
                report.wrong.append(f"round {number} ({' and '.join(chosen)}): {error!r}")
                tell(stage.log()[-3000:])
                break
            report.struck.update(chosen)
            report.rounds = number
            tell(
                f"round {number} of seed {seed}: {' and '.join(chosen)};"
                f" {round_.history.answers} answers, {round_.history.refusals} refused;"
                f" again after {report.recoveries[-1]:.1f} s; took"
                f" {time.monotonic() - began:.1f} s; {len(report.faults)} faults"
            )
            for fault in set(report.faults) - known:
                tell(fault)
            if number % _VERIFY_EVERY == 0 or number == rounds:
                found = await asyncio.to_thread(
                    stage.database.execute, "SELECT * FROM billing.verify_ledger()"
                )
                report.wrong += [f"after round {number}: verify_ledger: {row}" for row in found]
    return report


class Round:
    """One round, on accounts of its own."""

    def __init__(self, stage: Stage, report: Report, number: int, rng: Random) -> None:
        self._stage = stage
        self._report = report
        self._rng = rng
        self._prefix = f"torture-{number}-"
        self._number = number
        self.history = History()

    async def run(self, chosen: Sequence[tuple[str, Fault]]) -> None:
        """Starts the faults, waits until all clients are answered again, and compares."""
        hot = await asyncio.to_thread(self._make_accounts, "hot", HOT_ACCOUNTS, _HOT_CREDITS)
        scarce = await asyncio.to_thread(
            self._make_accounts, "scarce", SCARCE_ACCOUNTS, _SCARCE_CREDITS
        )
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            clients = [
                Client(
                    self._stage,
                    session,
                    self.history,
                    name=f"{self._prefix}{number}",
                    hot=hot,
                    scarce=scarce,
                    rng=Random(self._rng.random()),
                )
                for number in range(CLIENTS)
            ]
            tasks = [asyncio.create_task(client.run()) for client in clients]
            try:
                await self._work(clients, tasks, chosen)
            finally:
                for task in tasks:
                    task.cancel()
        await asyncio.to_thread(self._stage.wait_until_quiet)
        await asyncio.to_thread(self._compare, clients, hot)

    async def _work(
        self,
        clients: Sequence[Client],
        tasks: Sequence[asyncio.Task[None]],
        chosen: Sequence[tuple[str, Fault]],
    ) -> None:
        await _until(lambda: all(client.answered_at for client in clients), tasks, clients)
        await asyncio.gather(*(self._strike(fault) for _, fault in chosen))
        await asyncio.to_thread(self._stage.recover)
        over = time.monotonic()
        await _until(lambda: all(client.answered_at > over for client in clients), tasks, clients)
        self._report.recoveries.append(time.monotonic() - over)
        for client in clients:
            client.stopping = True
        await asyncio.wait_for(asyncio.gather(*tasks), _RECOVERY)

    async def _strike(self, fault: Fault) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.3))
        lasting = self._rng.uniform(0.2, 1.2)
        async with fault(self._stage, self._rng):
            await asyncio.sleep(lasting)

    def _make_accounts(self, kind: str, count: int, credits: int) -> list[str]:
        """Makes accounts that all clients share."""
        names = [f"{self._prefix}{kind}-{number}" for number in range(count)]
        with self._stage.connect("t_dba") as dba:
            for name in names:
                dba.execute(
                    "SELECT billing.create_account(p_oauth_provider => %s, p_external_id => %s)",
                    (PROVIDER, name),
                )
                dba.execute(
                    "SELECT billing.create_credit(p_oauth_provider => %s, p_external_id => %s,"
                    " p_amount_minor => %s, p_currency => 'USD', p_description => 'shared',"
                    " p_transaction_type => 'grant')",
                    (PROVIDER, name, credits),
                )
        return names

    def _compare(self, clients: Sequence[Client], hot: Sequence[str]) -> None:
        """Compares the ledger with the requests and their answers."""
        report, history = self._report, self.history
        with self._stage.connect() as connection:
            connection.row_factory = dict_row
            rows = connection.execute(_LEDGER, {"accounts": f"{self._prefix}%"}).fetchall()
            accounts = connection.execute(_ACCOUNTS, {"accounts": f"{self._prefix}%"}).fetchall()
            scarce = f"{self._prefix}scarce-%"
            findings = [
                *compare_holds(connection, scarce, history.holds),
                *find_stuck(connection, scarce),
            ]
            report.holds += count_holds(connection, scarce)
        found = {row["name"]: row for row in rows if row["name"] != "shared"}
        counts = Counter(row["name"] for row in rows if row["name"] != "shared")
        where = f"round {self._number}"
        report.doubled += [f"{where}: {name}" for name, count in counts.items() if count > 1]
        report.wrong += [
            f"{where}: nobody asked for {name}" for name in found.keys() - history.asked
        ]
        report.wrong += [f"{where}: {fault}" for fault in history.faults]
        for name, answer in history.acknowledged.items():
            if name not in found:
                report.lost.append(f"{where}: {name} {answer}")
            elif not matches(found[name], answer):
                report.wrong.append(f"{where}: {found[name]} was answered {answer}")
        for kind, finding in findings:
            getattr(report, kind).append(f"{where}: {finding}")
        for row in accounts:
            if row["paid_credits"] != row["granted"] - row["spent"] or row["paid_credits"] < 0:
                report.overspent.append(f"{where}: {row}")
        wrong = {fault.split(":")[0] for fault in history.faults}
        by_name = {row["external_id"]: row for row in accounts}
        for client in clients:
            if client.name not in wrong:
                self._settle(client, by_name[client.name], found)
        report.answers += history.answers
        report.refusals += history.refusals
        report.writes += len(history.acknowledged)

    def _settle(self, client: Client, row: dict[str, object], found: dict[str, object]) -> None:
        present = [
            name
            for name in found
            if name.rpartition("-")[0] == client.name and name not in self.history.hot
        ]
        stands = (row["free_uses_remaining"], row["paid_credits"], row["total_uses"])
        try:
            client.account.settle(present, "the ledger has other rows than were acknowledged")
            client.account.seen(
                f"the account stands at {stands}",
                lambda state: (state.free, state.paid, state.uses) == stands,
            )
        except WrongAnswer as wrong:
            self._report.wrong.append(f"round {self._number}: {client.name}: {wrong}")


async def _until(
    condition: Callable[[], bool], tasks: Sequence[asyncio.Task[None]], clients: Sequence[Client]
) -> None:
    """Returns when the condition holds for every client that has met no wrong answer."""
    deadline = time.monotonic() + _RECOVERY
    while not condition():
        if any(task.done() for task in tasks):
            return  # a wrong answer ends the client; the comparison reports it
        if time.monotonic() > deadline:
            waiting = [client.name for client in clients if not client.answered_at]
            raise TimeoutError(f"no answer in {_RECOVERY:g} s; never one for {waiting}")
        await asyncio.sleep(0.01)


_LEDGER = """
    SELECT l.id, l.description AS name, l.balance_after
    FROM (
        SELECT c.id, c.account_id, c.description, c.balance_after FROM billing_data.charges AS c
        UNION ALL
        SELECT c.id, c.account_id, c.description, c.balance_after FROM billing_data.credits AS c
    ) AS l
    INNER JOIN billing_data.accounts AS a ON a.id = l.account_id
    WHERE a.external_id LIKE %(accounts)s
"""
_ACCOUNTS = """
    SELECT
        a.external_id, a.free_uses_remaining, a.paid_credits, a.total_uses,
        coalesce((
            SELECT sum(c.amount_minor) FROM billing_data.credits AS c WHERE c.account_id = a.id
        ), 0) AS granted,
        coalesce((
            SELECT sum(c.amount_minor) FROM billing_data.charges AS c
            WHERE c.account_id = a.id AND c.paid_with = 'paid'
        ), 0) AS spent
    FROM billing_data.accounts AS a
    WHERE a.external_id LIKE %(accounts)s
"""
