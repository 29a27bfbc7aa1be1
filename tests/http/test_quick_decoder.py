"""The quick decoder accepts a subset of what the request models accept, with equal values."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from server.agent import models as m
from server.agent.charges import ChargeRequest
from server.http.quick_decoder import quick_decoder
from server.http.validation import parse_json_body, validate

MODELS = (m.CheckRequest, ChargeRequest, m.AccountRequest, m.PurchaseRequest)
QUICK: dict[type[BaseModel], Callable[[bytes], Any] | None] = {
    model: quick_decoder(model) for model in MODELS
}
NESTED = ("context", "metadata")
NAMES = sorted({name for model in (*MODELS, m.CheckContext) for name in model.model_fields})


class _NoHeaders:
    """The part of a request that parse_json_body reads: this one has no content type."""

    headers: dict[str, str] = {}


# Values as they may occur in a body.
_STRINGS = [
    *('"oauth:google"', '"oauth:"', '"OAUTH:x"', r'"oauth\u003agoogle"', r'"oauth:\n"'),
    *('"USD"', '"usd"', '"US"', r'"USD\n"', r'"US\n"', '"\u0131sd"', '"\u017fsd"', '"\u00dfs"'),
    *(r'"\u0000"', r'"a\u0000b"', r'"\\u0000"', '"\0"', '"a\nb"', '"\t"', '"\x1f"', '"\x7f"'),
    *(r'"\ud800"', r'"\udc00"', r'"\ud83d\ude00"', r'"\ud800\ud800"', r'"\uD83D x"', '"\ud800"'),
    *(r'"\u00"', r'"\x41"', r'"\'"', r'"\/"', '"\\', '"a', "'a'", '"1"', '"true"', '""', '" "'),
    *(f'"{letter * length}"' for letter in "a\u00e9\U0001f600" for length in (49, 50, 51)),
    *(f'"{letter * length}"' for letter in "a\u00e9\U0001f600" for length in (254, 255, 256)),
    *(f'"{letter * length}"' for letter in "a\u00e9\U0001f600" for length in (999, 1000, 1001)),
]
_NUMBERS = [
    *("0", "1", "-1", "-0", "2", "100", "01", "+1", "1.", ".1", "1.0", "1.5", "1e2", "1E2"),
    *("1e400", "1e-400", "1e18", "9.3e18", "-1.0", "0.0", "0x1", "1_000", "NaN", "Infinity"),
    *("9223372036854775807", "9223372036854775808", "9223372036854775807.0", "-0.0"),
    *("18446744073709551615", "18446744073709551616", "1" * 25, "1" * 400, "1" * 5000),
    *("100000000000000000000.0", "9007199254740993.0", "1.0000000000000000000001"),
]
_OTHERS = [
    *("true", "false", "null", "TRUE", "None", "[]", "{}", "[1]", "[{}]", "", "tru", "nul"),
    *('{"agent_id":1}', '{"agent_id":"a","agent_id":null}', '{"unknown":"\\ud800"}', '{"a":NaN}'),
    *("[" * depth + "]" * depth for depth in (100, 1023, 1024, 1025, 5000)),
]
ODD = [*_STRINGS, *_NUMBERS, *_OTHERS]
_letters = st.sampled_from("a\u00e9\u20ac\U0001f600\u0130\u00df \x7f")
_lengths = st.sampled_from((0, 1, 2, 3, 49, 50, 51, 254, 255, 256, 999, 1000, 1001))
_text = st.one_of(
    st.builds(lambda letter, length: json.dumps(letter * length), _letters, _lengths),
    st.text().map(json.dumps),
    st.text(max_size=60).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
_scalar = st.one_of(_text, _text, st.sampled_from(ODD), st.integers().map(str))
_names = st.one_of(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.text(max_size=10),
    st.sampled_from(["AMOUNT_MINOR", "amount_minor ", "amount\0minor", "context.agent_id"]),
)


def _name_text(name: str, escaped: bool) -> str:
    if escaped and name:
        return f'"\\u{ord(name[0]) & 0xFFFF:04x}{json.dumps(name[1:])[1:]}'
    return json.dumps(name)


_name = st.builds(_name_text, _names, st.sampled_from([False] * 9 + [True]))
_space = st.sampled_from([""] * 9 + [" ", "\n", "\t\r "] * 3 + ["\x0b", "\u00a0"])


def _object(members: list[tuple[str, str]], space: str, end: str) -> str:
    inner = f",{space}".join(f"{name}{space}:{space}{value}" for name, value in members)
    return f"{{{space}{inner}{end}}}"


_end = st.sampled_from([""] * 19 + [","])
_inner = st.builds(_object, st.lists(st.tuples(_name, _scalar), max_size=5), _space, _end)
_members = st.tuples(_name, st.one_of(_scalar, _scalar, _scalar, _inner))
_PLAIN = {
    "oauth_provider": '"oauth:google"',
    "external_id": '"user-1"',
    "amount_minor": "1",
    "currency": '"USD"',
    "description": '"One use"',
    "customer_email": '"ada@example.com"',
}


@st.composite
def bodies(draw: st.DrawFn, model: type[BaseModel]) -> bytes:
    """Bodies that are right except for a few members, and sometimes a few bytes."""
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    members = [(json.dumps(name), _PLAIN[name]) for name in required]
    if draw(st.integers(0, 19)) == 0:
        members = []
    for name in draw(st.lists(st.sampled_from(sorted(model.model_fields)), max_size=3)):
        value = _inner if name in NESTED else _scalar
        members.insert(draw(st.integers(0, len(members))), (json.dumps(name), draw(value)))
    if draw(st.integers(0, 9)) == 0:
        members.append(draw(_members))
    text = _object(members, draw(_space), draw(_end))
    text = draw(st.sampled_from([""] * 40 + ["\ufeff", " ", "\n"])) + text
    text += draw(st.sampled_from([""] * 40 + [" ", "\0", "}", "x", "{}", "\n\n"]))
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if draw(st.integers(0, 11)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            place = draw(st.integers(0, len(raw) - 1)) if raw else 0
            raw[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(raw)


def as_today(model: type[BaseModel], raw: bytes) -> BaseModel:
    """Reads the body by the general way, which raises for what it refuses."""
    request: Any = _NoHeaders()
    accepted, faults = validate(model, parse_json_body(request, raw), "body")
    assert accepted is not None, faults
    return accepted


def values(model: type[BaseModel], of: Any) -> dict[str, Any]:
    """All values of an object with the model's attributes, with their types."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value, nested = getattr(of, name), field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            found[name] = values(nested, value)
        else:
            found[name] = (type(value), value)
    return found


def compare(model: type[BaseModel], raw: bytes) -> bool:
    """Whether the quick decoder accepts the body. If so, checks that the model accepts it with
    equal values."""
    quick = QUICK[model]
    assert quick is not None
    accepted = quick(raw)
    if accepted is not None:
        assert values(model, accepted) == values(model, as_today(model, raw))
    return accepted is not None


@pytest.mark.parametrize("model", MODELS)
def test_what_the_quick_decoder_accepts_the_model_accepts_with_equal_values(
    model: type[BaseModel],
) -> None:
    @settings(max_examples=1500, deadline=None)
    @given(bodies(model))
    def compared(raw: bytes) -> None:
        compare(model, raw)

    compared()


@pytest.mark.parametrize("model", MODELS)
def test_every_odd_value_of_every_field_is_accepted_by_both_or_left_to_the_model(
    model: type[BaseModel],
) -> None:
    required = {name: text for name, text in _PLAIN.items() if _is_required(model, name)}
    accepted = 0
    for odd in ODD:
        for name in (*model.model_fields, "unknown"):
            for values_of_it in ([odd], [odd, _PLAIN.get(name, "null")], ["null", odd]):
                members = [*required.items(), *((name, value) for value in values_of_it)]
                text = _object([(f'"{key}"', value) for key, value in members], "", "")
                accepted += compare(model, text.encode("utf-8", "surrogatepass"))
    assert accepted > 100  # otherwise nothing was compared


def _is_required(model: type[BaseModel], name: str) -> bool:
    return name in model.model_fields and model.model_fields[name].is_required()


@pytest.mark.parametrize(
    "start", [b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" \n", b"\x1e", b"//\n", b"[", b'"', b"{"]
)
@pytest.mark.parametrize("end", [b"", b" ", b"\0", b"}", b"]", b'"', b",", b"{}", b"\xff"])
def test_what_stands_around_a_body_is_accepted_by_both_or_left_to_the_model(
    start: bytes, end: bytes
) -> None:
    body = b'{"oauth_provider":"oauth:google","external_id":"user-1"}'
    compare(m.CheckRequest, start + body + end)
    compare(m.CheckRequest, start + body.decode().encode("utf-16-le") + end)


def test_what_clients_send_is_accepted_by_the_quick_decoder() -> None:
    who = {"oauth_provider": "oauth:google", "external_id": "user-1"}
    profile = {
        "customer_email": "ada@example.com",
        "user_role": "user",
        "agent_id": "scout",
        "marketing_opt_in": True,
        "marketing_opt_in_source": "registration",
    }
    charge = {**who, "amount_minor": 1, "currency": "USD", "description": "Message interaction"}
    context = {"agent_id": "scout", "channel_id": "c", "request_id": "r"}
    for model, body in (
        (m.CheckRequest, who),
        (m.CheckRequest, {**who, "wa_id": None, "tenant_id": "t", "context": context, **profile}),
        (ChargeRequest, charge),
        (ChargeRequest, {**charge, "currency": "usd", "idempotency_key": "", "wa_id": "w"}),
        (ChargeRequest, {**charge, "metadata": {**context, "message_id": "m"}, **profile}),
        (m.AccountRequest, {**who, "plan_name": "free", "initial_balance_minor": 0}),
        (m.PurchaseRequest, {**who, **profile, "return_url": "https://example.com/"}),
    ):
        assert compare(model, orjson.dumps(body))
        assert compare(model, json.dumps(body, indent=2).encode())


class _Kind(Enum):
    one = "one"


class _WithEnum(BaseModel):
    kind: _Kind


class _WithUnknownLimit(BaseModel):
    even: Annotated[int, Field(multiple_of=2)]


class _WithAlias(BaseModel):
    name: str = Field(alias="other")


class _WithValidator(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _check(cls, value: str) -> str:
        return value


class _Strict(BaseModel, str_strip_whitespace=True):
    name: str


@pytest.mark.parametrize(
    "model", [_WithEnum, _WithUnknownLimit, _WithAlias, _WithValidator, _Strict]
)
def test_a_model_that_is_not_understood_has_no_quick_decoder(model: type[BaseModel]) -> None:
    assert quick_decoder(model) is None
