"""Reads and checks plain request bodies in one pass. A quick decoder is derived from a pydantic
model, so that fields and limits are written in the model alone. Whatever it accepts the model
accepts too, with equal values. Everything else it leaves to the model, which accepts it or words
the refusal."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from server.http.validation import without_nul

_LIMITS = frozenset({"gt", "ge", "lt", "le", "min_length", "max_length", "pattern"})

QuickDecoder = Callable[[bytes], Any]
_Validator = Callable[..., Any]


class _Unknown(Exception):
    """The model has something that this module does not know."""


def quick_decoder(model: type[BaseModel]) -> QuickDecoder | None:
    """Returns a function that gives an object with the model's attributes, or None for a body that
    the model itself must check. Returns None for a model with fields of kinds not known here."""
    try:
        decode = msgspec.json.Decoder(_struct(model)).decode
    except _Unknown:
        return None

    def quick(raw: bytes) -> Any:
        if rb"\u0000" in raw:  # JSON has no other way to write NUL
            return None
        try:
            return decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    return quick


def _struct(model: type[BaseModel]) -> type[msgspec.Struct]:
    """The model as a msgspec struct. A body with unknown fields is left to pydantic: msgspec would
    skip them without checking that they are JSON at all."""
    changes_meaning = model.model_config.keys() - {"defer_build"}
    if changes_meaning or any(dataclasses.asdict(model.__pydantic_decorators__).values()):
        raise _Unknown
    fields: list[Any] = []
    validators: list[tuple[str, _Validator]] = []
    for name, field in model.model_fields.items():
        if field.alias or field.validation_alias:
            raise _Unknown
        found: list[_Validator] = []
        kind = _kind(field.annotation, found, field.metadata)
        validators += [(name, validator) for validator in found]
        if field.is_required():
            fields.append((name, kind))
        elif field.default_factory is None:
            fields.append((name, kind, field.default))
        elif field.default_factory is field.annotation:
            fields.append((name, kind, msgspec.field(default_factory=kind)))
        else:
            raise _Unknown

    def validate(made: Any) -> None:
        for name, validator in validators:
            value = getattr(made, name)
            if value is not None:
                setattr(made, name, validator(value))  # a ValueError leaves the body to pydantic

    namespace = {"__post_init__": validate} if validators else {}
    return msgspec.defstruct(
        model.__name__, fields, namespace=namespace, kw_only=True, forbid_unknown_fields=True
    )


def _kind(annotation: Any, validators: list[_Validator], constraints: Any = ()) -> Any:
    """The type for msgspec with the constraints that msgspec can check; the others are added to
    `validators`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], validators, (*arguments[1:], *constraints))
    if (
        origin in (Union, types.UnionType)
        and arguments[1:] == (types.NoneType,)
        and not constraints
    ):
        return _kind(arguments[0], validators) | None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not constraints:
        return _struct(annotation)
    if origin is Literal and not constraints and all(isinstance(one, str) for one in arguments):
        return annotation
    if annotation not in (str, int, bool):
        raise _Unknown
    limits: dict[str, Any] = {}
    for constraint in _plain(constraints):
        if isinstance(constraint, AfterValidator):
            if constraint.func is not without_nul:
                validators.append(constraint.func)
        else:
            limits |= _limits(constraint)
    return Annotated[annotation, msgspec.Meta(**limits)] if limits else annotation


def _plain(constraints: Any) -> Any:
    """The constraints, with those that a Field in an optional type stands for in its place."""
    for constraint in constraints:
        if isinstance(constraint, FieldInfo) and constraint._attributes_set.keys() <= _LIMITS:
            yield from constraint.metadata
        else:
            yield constraint


def _limits(constraint: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(constraint):
        raise _Unknown
    values = {one.name: getattr(constraint, one.name) for one in dataclasses.fields(constraint)}
    limits = {name: value for name, value in values.items() if value is not None}
    if not limits.keys() <= _LIMITS:
        raise _Unknown
    return limits
