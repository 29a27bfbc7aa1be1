"""A call of a function in schema billing: its arguments by name, and the statement that makes it.

Arguments that a call does not give have the function's own defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec

_P = ParamSpec("_P")

Row = Mapping[str, Any]
# One check or charge: its fields in the order of the composite type. The first two are the
# account's identity.
Item = tuple[Any, ...]


class Statement(NamedTuple):
    """A call as SQL, to be prepared. Metrics and traces show its `label`, which does not change
    when a function gets another version."""

    sql: str
    label: str


class Function(Generic[_P]):
    """The function billing.`name` with the names of its `arguments` (a Python keyword gets a final
    _) and of its `columns`; a function that returns a single value has no columns. Calling it makes
    a FunctionCall."""

    def __init__(self, signature: Callable[_P, None], columns: str) -> None:
        self.name = signature.__name__
        self.arguments = tuple(inspect.signature(signature).parameters)
        self.columns = tuple(columns.split())
        self._statements: dict[tuple[str, ...], Statement] = {}

    def __call__(self, *_: _P.args, **arguments: _P.kwargs) -> FunctionCall:
        return FunctionCall(self, arguments)

    def statement(self, names: tuple[str, ...]) -> Statement:
        """The statement with these arguments, in this order."""
        known = self._statements.get(names)
        if known is None:
            passed = ", ".join(
                f"{parameter(name)} => ${number}" for number, name in enumerate(names, 1)
            )
            sql = select_from(f"billing.{self.name}({passed})", self.name, self.columns)
            known = self._statements[names] = Statement(sql, self.name)
        return known


class FunctionCall(NamedTuple):
    """A call that the gateway has not made yet."""

    function: Function[Any]
    arguments: dict[str, Any]

    def given(self, **more: Any) -> FunctionCall:
        """The same call with these arguments as well."""
        return FunctionCall(self.function, {**self.arguments, **more})

    @property
    def statement(self) -> Statement:
        """The statement that makes the call."""
        return self.function.statement(tuple(self.arguments))


def function(columns: str = "") -> Callable[[Callable[_P, None]], Function[_P]]:
    """Decorates a signature: makes a Function of it."""
    return lambda signature: Function(signature, columns)


def parameter(name: str) -> str:
    """The SQL argument for this name in Python."""
    return f"p_{name.rstrip('_')}"


def select_from(expression: str, name: str, columns: tuple[str, ...]) -> str:
    """The SELECT of a function's call: these columns of its rows, or the one value under its
    name."""
    if not columns:
        return f"SELECT {expression} AS {name}"
    return f"SELECT {', '.join(f'f.{column}' for column in columns)} FROM {expression} AS f"  # noqa: S608
