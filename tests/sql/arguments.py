"""Calls of every function of schema billing, made from the examples in the functions' headers. A
test can replace their arguments one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.sql.catalogue import runnable_example
from tests.sql.helpers import Caller, session
from tests.support import Database

# Used instead of an example that does not show everything it needs.
_WHOLE = {
    "create_charges_once": """
        p_idempotency_key => 'batch-1', p_request_fingerprint => sha256('as sent'),
        p_api_key_id => '{key}', p_oauth_providers => ARRAY['oauth:google'],
        p_external_ids => ARRAY['1'], p_amounts_minor => ARRAY[1], p_currencies => ARRAY['USD'],
        p_descriptions => ARRAY['one use'], p_idempotency_keys => NULL,
        p_metadata_message_ids => NULL, p_metadata_agent_ids => NULL,
        p_metadata_channel_ids => NULL, p_metadata_request_ids => NULL, p_customer_emails => NULL,
        p_user_roles => NULL, p_agent_ids => NULL, p_marketing_opt_ins => NULL,
        p_marketing_opt_in_sources => NULL""",
    "charge_items_once": """
        p_idempotency_key => 'batch-1', p_request_fingerprint => sha256('as sent'),
        p_items => ARRAY[jsonb_populate_record(NULL::billing.charge_item, jsonb_build_object(
            'oauth_provider', 'oauth:google', 'external_id', '1', 'amount_minor', 1,
            'currency', 'USD', 'description', 'one use', 'api_key_id', '{key}'))]""",
    "settle_items_once": """
        p_idempotency_key => 'batch-2', p_request_fingerprint => sha256('as sent'),
        p_captures => ARRAY[jsonb_populate_record(NULL::billing.capture_item, jsonb_build_object(
            'hold_id', '0197f2a0-0000-7000-8000-000000000002', 'api_key_id', '{key}'))]""",
}


@dataclass(frozen=True)
class Call:
    """A call that works: the arguments it gives, as SQL, and the types of all arguments it could
    give."""

    function: str
    given: dict[str, str]
    types: dict[str, str]

    def statement(self, **instead: str) -> str:
        """The call, with some arguments replaced by other SQL expressions."""
        arguments = ", ".join(
            f"{name} => {value}" for name, value in (self.given | instead).items()
        )
        return f"SELECT * FROM billing.{self.function}({arguments})"


@contextmanager
def working_call(database: Database, function: str) -> Iterator[tuple[Caller, Call]]:
    """A caller that may call the function, and a call that works."""
    with runnable_example(database, function) as (caller, example):
        types = argument_types(database, function)
        found = re.search(rf"billing\.{function}\((.*)\)[^)]*;", example, re.DOTALL)
        assert found, example
        text = found[1]
        if function in _WHOLE:  # the call names a key, so only the web tier may make it
            with session(database, "t_web") as web:
                text = _WHOLE[function].format(key=database.create_key().id)
                yield web, Call(function, _given(text, list(types)), types)
            return
        yield caller, Call(function, _given(text, list(types)), types)


def argument_types(database: Database, function: str) -> dict[str, str]:
    """The arguments of a function of schema billing, in order, with their types."""
    return dict(
        database.execute(
            "SELECT a.name, format_type(a.type, NULL) FROM pg_proc AS p"
            " CROSS JOIN LATERAL unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[])"
            " WITH ORDINALITY AS a (name, type, place)"
            " WHERE p.pronamespace::regnamespace::text = 'billing' AND p.proname = %s"
            " ORDER BY a.place",
            function,
        )
    )


def _given(text: str, names: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for place, part in enumerate(_parts(text)):
        name, arrow, value = part.partition("=>")
        if arrow and name.strip() in names:
            given[name.strip()] = value.strip()
        else:
            given[names[place]] = part.strip()
    return given


def _parts(text: str) -> list[str]:
    """The arguments of a call: split at commas outside brackets and strings."""
    parts, depth, quoted, begun = [], 0, False, 0
    for place, character in enumerate(text):
        if character == "'":
            quoted = not quoted
        elif not quoted and character in "([":
            depth += 1
        elif not quoted and character in ")]":
            depth -= 1
        elif not quoted and character == "," and depth == 0:
            parts.append(text[begun:place])
            begun = place + 1
    return [part for part in [*parts, text[begun:]] if part.strip()]
