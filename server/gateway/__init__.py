"""The only way from Python to the database: calls of the functions in schema billing, typed from
the database's catalogue.

A handler makes a call with `functions` and gives it to the Gateway; no rule is decided here. A call
that a function refuses raises Refused. A database that cannot answer raises Unavailable.
server/http/errors.py turns both into HTTP answers. Each module has one job:

    gateway         chooses the slots and connections of each kind of call
    functions       the functions, generated from the catalogue; `call` makes statements of them
    batcher         sends checks, charges, holds or captures that arrive together in one call
    keyed_batches   batches of charges that take effect once per Idempotency-Key
    items           how lists of checks, charges, holds and captures are sent
    slots           how many calls of a kind run at once; `holders` says who holds an account
    database        makes calls: retries those that were undone, counts them, translates errors
    refusals        what a function refuses; `errors` says what other errors mean
    background      what each process does beside its requests
    schema_check    whether the database fits this release
    pool            connections; `pooler` through PgBouncer, `silence` finds those that were lost
                    without notice
    opener          opens connections in the web tier's role; `hosts` chooses among the servers
    replica         reads that may be a little old"""

from server.gateway import functions
from server.gateway.call import FunctionCall, Item, Row
from server.gateway.errors import (
    Busy,
    ConnectionLost,
    DatabaseFault,
    ReadOnly,
    RightsMissing,
    Unavailable,
)
from server.gateway.gateway import Gateway
from server.gateway.items import (
    CAPTURE_ITEM,
    CHARGE_ITEM,
    CHARGE_KEY,
    CHECK_ITEM,
    HOLD_ITEM,
    HOLD_KEY,
)
from server.gateway.refusals import Refused
from server.gateway.schema_check import SchemaMismatch

__all__ = [
    "CAPTURE_ITEM",
    "CHARGE_ITEM",
    "CHARGE_KEY",
    "CHECK_ITEM",
    "HOLD_ITEM",
    "HOLD_KEY",
    "Busy",
    "ConnectionLost",
    "DatabaseFault",
    "FunctionCall",
    "Gateway",
    "Item",
    "ReadOnly",
    "Refused",
    "RightsMissing",
    "Row",
    "SchemaMismatch",
    "Unavailable",
    "functions",
]
