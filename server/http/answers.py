"""Answers as types. An answer is a TypedDict: its fields in the order in which they are sent, each
with its type and its meaning. The API's description is made from the type. So is the function that
turns a database row into the answer.

Modules that define types of answers or requests do not import annotations from __future__: each
annotation would become a text that typing compiles and evaluates, which was a tenth of the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    ForwardRef,
    NotRequired,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema
from typing_extensions import is_typeddict

Row = Mapping[str, Any]
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class From:
    """The source of a field's value when no column has the field's name: the column of this name,
    or the result of this function for the row."""

    source: str | Callable[[Row], Any]


class Inline:
    """Describes the fields of a type where it is used; the type gets no name in the API's
    description."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """See pydantic."""
        shown = dict(handler.resolve_ref_schema(handler(schema)))
        del shown["title"], shown["description"]
        return shown


def reader(
    answer: type[Answer], columns: Iterable[str], *, prefix: str = ""
) -> Callable[[Row], Answer]:
    """Returns a function that makes the answer from a row. A field is read from the column of its
    name, with `prefix` before it. For the fields of a type within the answer the outer field's name
    is the prefix (metadata_agent_id). An optional field is left out when it is null.

    Raises LookupError when a field's column is not one of `columns`, those that the call reads."""
    names: dict[str, Any] = {}
    display = _display(answer, prefix, frozenset(columns), names)
    # A dict display is three times as fast as a loop over the fields. dataclasses also generate
    # code.
    made: Callable[[Row], Answer] = eval(f"lambda row: {display}", names)  # noqa: S307
    return made


def _display(answer: Any, prefix: str, columns: frozenset[str], names: dict[str, Any]) -> str:
    parts = []
    hints = answer.__annotations__
    if any(isinstance(hint, ForwardRef) for hint in hints.values()):
        hints = get_type_hints(answer, include_extras=True)
    for name, hint in hints.items():
        optional = get_origin(hint) is NotRequired
        kind, source = _kind_and_source(get_args(hint)[0] if optional else hint, prefix + name)
        if callable(source):
            names[function := f"made_{len(names)}"] = source
            value = f"{function}(row)"
        elif is_typeddict(kind):
            value = _display(kind, f"{source}_", columns, names)
        elif source in columns:
            value = f"row[{source!r}]"
        else:
            raise LookupError(f"{answer.__name__}.{name}: the call reads no column {source}")
        part = f"{name!r}: {value}"
        if optional:
            part = f"**({{{part}}} if {value} is not None else {{}})"
        parts.append(part)
    return f"{{{', '.join(parts)}}}"


def _kind_and_source(hint: Any, name: str) -> tuple[Any, str | Callable[[Row], Any]]:
    """A field's type and the source of its value."""
    source: str | Callable[[Row], Any] = name
    while get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        source = next((note.source for note in notes if isinstance(note, From)), source)
    return hint, source
