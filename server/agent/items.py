"""The items of checks and charges for the database: the fields of the request model, those of
nested models under joined names, and the API key last. The database's composite type has the same
fields; the list of them is written nowhere else in Python."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class ItemFields:
    """A composite type's items, as plain tuples, and how they are made from a request."""

    def __init__(self, model: type[BaseModel], leave_out: frozenset[str] = frozenset()) -> None:
        paths = [path for path in _paths(model) if path not in leave_out]
        self.fields = (*(path.replace(".", "_") for path in paths), "api_key_id")
        self._values = attrgetter(*paths)

    def item(self, body: Any, api_key_id: UUID) -> tuple[Any, ...]:
        """Makes the item of a request that has the model's attributes."""
        return (*self._values(body), api_key_id)


def _paths(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from (f"{name}.{path}" for path in _paths(nested))
        else:
            yield name
