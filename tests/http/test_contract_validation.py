"""The 422 list (contract 1): each cause with its type, wording, location, input and context."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.http.contract import (
    ACCOUNTS,
    BATCH,
    BODIES,
    CHARGES,
    CHECK,
    CREDITS,
    INT64_MAX,
    NOT_AN_OBJECT,
    PATHS,
    TRANSACTIONS,
    account_path,
    body_for,
    fault,
    faults_of,
    make_account,
    row_counts,
)
from tests.support import Service, charge_body, credit_body, identity, unique

JSON = {"Content-Type": "application/json"}
TRANSACTION_TYPES = "'purchase', 'grant', 'refund' or 'adjustment'"
CALENDAR = [("wa_id", 255), ("tenant_id", 255), ("user_role", 50), ("agent_id", 255)]
LIMITS = [
    *((endpoint, field, limit) for endpoint in BODIES for field, limit in CALENDAR),
    *((endpoint, "oauth_provider", 255) for endpoint in BODIES),
    *((endpoint, "external_id", 255) for endpoint in BODIES),
    *((endpoint, "customer_email", 255) for endpoint in BODIES),
    *((endpoint, "marketing_opt_in_source", 50) for endpoint in BODIES),
    ("charges", "idempotency_key", 255),
    ("credits", "idempotency_key", 255),
    ("credits", "external_transaction_id", 255),
    ("accounts", "plan_name", 100),
]
NESTED = [
    *(("check", "context", field) for field in ("agent_id", "channel_id", "request_id")),
    *(
        ("charges", "metadata", field)
        for field in ("message_id", "agent_id", "channel_id", "request_id")
    ),
]
REQUIRED = {
    "check": ["oauth_provider", "external_id"],
    "charges": ["oauth_provider", "external_id", "amount_minor", "currency", "description"],
    "credits": [
        "oauth_provider",
        "external_id",
        "amount_minor",
        "currency",
        "description",
        "transaction_type",
    ],
    "accounts": ["oauth_provider", "external_id"],
}
PROFILE = ["customer_email", "user_role", "agent_id", "marketing_opt_in", "marketing_opt_in_source"]
FIELDS = {
    "check": ["context"],
    "charges": ["amount_minor", "currency", "description", "idempotency_key", "metadata"],
    "credits": [
        "amount_minor",
        "currency",
        "description",
        "transaction_type",
        "external_transaction_id",
        "idempotency_key",
    ],
    "accounts": ["initial_balance_minor", "currency", "plan_name"],
}
NOT_NULL = {
    "check": ["oauth_provider", "external_id", "context", "marketing_opt_in"],
    "charges": [*REQUIRED["charges"], "metadata", "marketing_opt_in"],
    "credits": [*REQUIRED["credits"], "marketing_opt_in"],
    "accounts": [*REQUIRED["accounts"], *FIELDS["accounts"], "marketing_opt_in"],
}


def text_of(length: int, field: str) -> str:
    return ("oauth:" if field == "oauth_provider" else "") + "é" * (
        length - (6 if field == "oauth_provider" else 0)
    )


@pytest.mark.parametrize("endpoint", BODIES)
def test_each_absent_field_is_named_with_the_object_it_is_missing_from(
    client: httpx2.Client, endpoint: str
) -> None:
    body = {"unknown": 1}
    assert faults_of(client.post(PATHS[endpoint], json=body)) == [
        fault("missing", ["body", field], "Field required", body) for field in REQUIRED[endpoint]
    ]


def test_an_absent_query_parameter_has_null_as_its_input(client: httpx2.Client) -> None:
    assert faults_of(client.get(TRANSACTIONS, params={"limit": "5"})) == [
        fault("missing", ["query", "oauth_provider"], "Field required", None),
        fault("missing", ["query", "external_id"], "Field required", None),
    ]


@pytest.mark.parametrize("endpoint", [*BODIES, "batch"])
def test_an_absent_body_is_missing(client: httpx2.Client, endpoint: str) -> None:
    expected = [fault("missing", ["body"], "Field required", None)]
    assert faults_of(client.post(PATHS[endpoint])) == expected
    assert faults_of(client.post(PATHS[endpoint], headers=JSON)) == expected


@pytest.mark.parametrize(("endpoint", "field", "limit"), LIMITS)
def test_a_string_of_one_character_too_many_is_refused_and_the_longest_is_taken(
    client: httpx2.Client, endpoint: str, field: str, limit: int
) -> None:
    too_long = text_of(limit + 1, field)
    response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: too_long}))
    assert faults_of(response) == [
        fault(
            "string_too_long",
            ["body", field],
            f"String should have at most {limit} characters",
            too_long,
            {"max_length": limit},
        )
    ]
    response = client.post(
        PATHS[endpoint], json=body_for(endpoint, **{field: text_of(limit, field)})
    )
    assert response.status_code in (200, 201, 404)


@pytest.mark.parametrize(("endpoint", "block", "field"), NESTED)
def test_context_and_metadata_values_are_bounded_at_their_place(
    client: httpx2.Client, endpoint: str, block: str, field: str
) -> None:
    body = body_for(endpoint, **{block: {field: "x" * 256}})
    assert faults_of(client.post(PATHS[endpoint], json=body)) == [
        fault(
            "string_too_long",
            ["body", block, field],
            "String should have at most 255 characters",
            "x" * 256,
            {"max_length": 255},
        )
    ]
    body = body_for(endpoint, **{block: {field: 7}})
    assert faults_of(client.post(PATHS[endpoint], json=body)) == [
        fault("string_type", ["body", block, field], "Input should be a valid string", 7)
    ]
    body = body_for(endpoint, **{block: {field: "x" * 255}})
    assert client.post(PATHS[endpoint], json=body).status_code in (200, 404)


@pytest.mark.parametrize(
    ("endpoint", "field", "least"),
    [
        *((endpoint, "oauth_provider", 1) for endpoint in BODIES),
        *((endpoint, "external_id", 1) for endpoint in BODIES),
        *((endpoint, "customer_email", 1) for endpoint in BODIES),
        ("charges", "description", 1),
        ("credits", "description", 1),
        ("accounts", "plan_name", 1),
        ("charges", "currency", 3),
        ("credits", "currency", 3),
        ("accounts", "currency", 3),
    ],
)
def test_a_string_too_short_is_refused(
    client: httpx2.Client, endpoint: str, field: str, least: int
) -> None:
    given = "x" * (least - 1)
    response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: given}))
    characters = "character" if least == 1 else "characters"
    assert faults_of(response) == [
        fault(
            "string_too_short",
            ["body", field],
            f"String should have at least {least} {characters}",
            given,
            {"min_length": least},
        )
    ]


@pytest.mark.parametrize("endpoint", ["charges", "credits", "accounts"])
def test_a_currency_of_four_characters_is_refused(client: httpx2.Client, endpoint: str) -> None:
    response = client.post(PATHS[endpoint], json=body_for(endpoint, currency="USDX"))
    assert faults_of(response) == [
        fault(
            "string_too_long",
            ["body", "currency"],
            "String should have at most 3 characters",
            "USDX",
            {"max_length": 3},
        )
    ]


@pytest.mark.parametrize("given", [7, 7.5, True, [], {}], ids=str)
@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("check", "external_id"),
        ("check", "wa_id"),
        ("charges", "currency"),
        ("charges", "description"),
        ("charges", "idempotency_key"),
        ("credits", "external_transaction_id"),
        ("accounts", "plan_name"),
        ("accounts", "customer_email"),
    ],
)
def test_only_a_string_passes_for_a_string(
    client: httpx2.Client, endpoint: str, field: str, given: Any
) -> None:
    response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: given}))
    assert faults_of(response) == [
        fault("string_type", ["body", field], "Input should be a valid string", given)
    ]


@pytest.mark.parametrize("endpoint", ["charges", "credits"])
@pytest.mark.parametrize("given", [0, -1, -(2**63), "0", "-7", False])
def test_an_amount_must_be_greater_than_zero(
    client: httpx2.Client, endpoint: str, given: Any
) -> None:
    response = client.post(PATHS[endpoint], json=body_for(endpoint, amount_minor=given))
    assert faults_of(response) == [
        fault(
            "greater_than",
            ["body", "amount_minor"],
            "Input should be greater than 0",
            given,
            {"gt": 0},
        )
    ]


def test_an_initial_balance_must_not_be_negative(client: httpx2.Client) -> None:
    response = client.post(ACCOUNTS, json=body_for("accounts", initial_balance_minor=-1))
    assert faults_of(response) == [
        fault(
            "greater_than_equal",
            ["body", "initial_balance_minor"],
            "Input should be greater than or equal to 0",
            -1,
            {"ge": 0},
        )
    ]


@pytest.mark.parametrize(
    ("field", "given", "kind", "msg", "ctx"),
    [
        ("limit", "501", "less_than_equal", "less than or equal to 500", {"le": 500}),
        ("limit", "-1", "greater_than_equal", "greater than or equal to 1", {"ge": 1}),
        ("offset", "-1", "greater_than_equal", "greater than or equal to 0", {"ge": 0}),
        ("offset", "-9", "greater_than_equal", "greater than or equal to 0", {"ge": 0}),
    ],
)
def test_paging_has_bounds_and_its_input_is_the_string_sent(
    *, client: httpx2.Client, field: str, given: str, kind: str, msg: str, ctx: dict[str, int]
) -> None:
    response = client.get(TRANSACTIONS, params={**identity(), field: given})
    assert faults_of(response) == [
        fault(kind, ["query", field], f"Input should be {msg}", given, ctx)
    ]


@pytest.mark.parametrize("field", ["limit", "offset"])
@pytest.mark.parametrize("given", ["many", "1.5", "", "true"])
def test_a_query_parameter_that_is_no_number_is_refused(
    client: httpx2.Client, field: str, given: str
) -> None:
    response = client.get(TRANSACTIONS, params={**identity(), field: given})
    assert faults_of(response) == [
        fault(
            "int_parsing",
            ["query", field],
            "Input should be a valid integer, unable to parse string as an integer",
            given,
        )
    ]


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("charges", "amount_minor"),
        ("credits", "amount_minor"),
        ("accounts", "initial_balance_minor"),
    ],
)
def test_what_is_no_whole_number_is_refused_as_an_amount(
    client: httpx2.Client, endpoint: str, field: str
) -> None:
    for given, kind, msg in (
        (
            1.5,
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        ),
        (
            "abc",
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        (
            "1.5",
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        (
            "",
            "int_parsing",
            "Input should be a valid integer, unable to parse string as an integer",
        ),
        (None, "int_type", "Input should be a valid integer"),
        ([1], "int_type", "Input should be a valid integer"),
    ):
        response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: given}))
        assert faults_of(response) == [fault(kind, ["body", field], msg, given)]


@pytest.mark.parametrize("endpoint", BODIES)
def test_marketing_opt_in_is_true_or_false_and_never_null(
    client: httpx2.Client, endpoint: str
) -> None:
    for given, kind, msg in (
        (None, "bool_type", "Input should be a valid boolean"),
        ([], "bool_type", "Input should be a valid boolean"),
        ("perhaps", "bool_parsing", "Input should be a valid boolean, unable to interpret input"),
        (2, "bool_parsing", "Input should be a valid boolean, unable to interpret input"),
    ):
        response = client.post(PATHS[endpoint], json=body_for(endpoint, marketing_opt_in=given))
        assert faults_of(response) == [fault(kind, ["body", "marketing_opt_in"], msg, given)]


@pytest.mark.parametrize("given", ["gift", "GRANT", "", 1, None], ids=str)
def test_a_transaction_type_is_one_of_four(client: httpx2.Client, given: Any) -> None:
    response = client.post(CREDITS, json=body_for("credits", transaction_type=given))
    assert faults_of(response) == [
        fault(
            "enum",
            ["body", "transaction_type"],
            f"Input should be {TRANSACTION_TYPES}",
            given,
            {"expected": TRANSACTION_TYPES},
        )
    ]


@pytest.mark.parametrize("given", ["google", "oauth", "OAUTH:google", " oauth:google"])
def test_a_provider_must_start_with_oauth(client: httpx2.Client, given: str) -> None:
    def expected(where: str) -> list[dict[str, Any]]:
        return [
            fault(
                "value_error",
                [where, "oauth_provider"],
                'Value error, oauth_provider must start with "oauth:"',
                given,
                {"error": {}},
            )
        ]

    for endpoint in BODIES:
        response = client.post(PATHS[endpoint], json=body_for(endpoint, oauth_provider=given))
        assert faults_of(response) == expected("body")
    assert faults_of(client.get(account_path("1", given))) == expected("path")
    params = {"oauth_provider": given, "external_id": "1"}
    assert faults_of(client.get(TRANSACTIONS, params=params)) == expected("query")


@pytest.mark.parametrize(
    ("text", "offset", "error"),
    [
        ("{", 1, "Expecting property name enclosed in double quotes"),
        ('{"a":', 5, "Expecting value"),
        ('{"a" 1}', 5, "Expecting ':' delimiter"),
        ('{"a":1 "b":2}', 7, "Expecting ',' delimiter"),
        ('{"a":1}x', 7, "Extra data"),
        ('{"é":"üü",x', 10, "Expecting property name enclosed in double quotes"),
        ('{"😀":"😀", x', 10, "Expecting property name enclosed in double quotes"),
        ('"abc', 0, "Unterminated string starting at"),
        ("nope", 0, "Expecting value"),
        ("   ", 3, "Expecting value"),
        ('{"a":"\\x"}', 6, "Invalid \\escape"),
        ('{"a":"\t"}', 6, "Invalid control character at"),
    ],
)
def test_malformed_json_is_placed_by_its_character(
    client: httpx2.Client, text: str, offset: int, error: str
) -> None:
    with pytest.raises(json.JSONDecodeError) as parser:
        json.loads(text)
    assert (parser.value.pos, parser.value.msg) == (offset, error), "the parser the contract means"
    for path in (CHECK, CHARGES, BATCH, CREDITS, ACCOUNTS):
        response = client.post(path, content=text.encode(), headers=JSON)
        assert faults_of(response) == [
            fault("json_invalid", ["body", offset], "JSON decode error", {}, {"error": error})
        ]


@pytest.mark.parametrize("given", [[], None, "text", 7, [{}]], ids=str)
def test_a_body_that_is_no_object_is_refused(client: httpx2.Client, given: Any) -> None:
    for path in (CHECK, CHARGES, BATCH, CREDITS, ACCOUNTS):
        response = client.post(path, content=json.dumps(given), headers=JSON)
        assert faults_of(response) == [
            fault("model_attributes_type", ["body"], NOT_AN_OBJECT, given)
        ]


@pytest.mark.parametrize("given", [None, [], [1], "text", 7, True], ids=str)
@pytest.mark.parametrize(("endpoint", "field"), [("check", "context"), ("charges", "metadata")])
def test_context_and_metadata_are_objects_and_never_null(
    client: httpx2.Client, endpoint: str, field: str, given: Any
) -> None:
    response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: given}))
    assert faults_of(response) == [
        fault("model_attributes_type", ["body", field], NOT_AN_OBJECT, given)
    ]


@pytest.mark.parametrize("endpoint", BODIES)
def test_faults_are_listed_in_the_order_of_the_fields(client: httpx2.Client, endpoint: str) -> None:
    fields = ["oauth_provider", "external_id", "wa_id", "tenant_id", *FIELDS[endpoint], *PROFILE]
    body: dict[str, Any] = {field: [] for field in reversed(fields)}
    response = client.post(PATHS[endpoint], json=body)
    assert [entry["loc"] for entry in faults_of(response)] == [["body", field] for field in fields]


@pytest.mark.parametrize(
    ("endpoint", "field"), [(e, field) for e, fields in NOT_NULL.items() for field in fields]
)
def test_null_is_refused_where_the_contract_does_not_list_it(
    client: httpx2.Client, endpoint: str, field: str
) -> None:
    response = client.post(PATHS[endpoint], json=body_for(endpoint, **{field: None}))
    assert [entry["loc"] for entry in faults_of(response)] == [["body", field]]
    assert faults_of(response)[0]["input"] is None


def test_null_is_taken_where_the_contract_lists_it(service: Service, client: httpx2.Client) -> None:
    nullable: dict[str, Any] = dict.fromkeys(
        ["wa_id", "tenant_id", "customer_email", "user_role", "agent_id", "marketing_opt_in_source"]
    )
    user = unique()
    context = dict.fromkeys(["agent_id", "channel_id", "request_id"])
    check = client.post(CHECK, json={**identity(user), **nullable, "context": context})
    assert check.status_code == 200
    metadata = dict.fromkeys(["message_id", "agent_id", "channel_id", "request_id"])
    charge = charge_body(user, idempotency_key=None, metadata=metadata, **nullable)
    assert client.post(CHARGES, json=charge).status_code == 201
    credit = credit_body(user, idempotency_key=None, external_transaction_id=None, **nullable)
    assert client.post(CREDITS, json=credit).status_code == 201
    assert client.post(ACCOUNTS, json={**identity(), **nullable}).status_code == 201


@pytest.mark.parametrize(
    ("given", "amount"), [("7", 7), (7.0, 7), (True, 1), (" 7 ", 7), ("+7", 7), (1e3, 1000)]
)
def test_what_means_a_whole_number_passes_for_one(
    service: Service, client: httpx2.Client, given: Any, amount: int
) -> None:
    user = make_account(service)
    charge = client.post(CHARGES, json=charge_body(user, given))
    assert (charge.status_code, charge.json()["amount_minor"]) == (201, amount)


@pytest.mark.parametrize("given", ["true", "yes", 1, "1", "on", "TRUE", 1.0, "t", "y"])
def test_what_means_true_passes_for_true(client: httpx2.Client, given: Any) -> None:
    account = client.post(ACCOUNTS, json=body_for("accounts", marketing_opt_in=given))
    assert (account.status_code, account.json()["marketing_opt_in"]) == (201, True)


@pytest.mark.parametrize("given", ["false", "no", 0, "0", "off", 0.0])
def test_what_means_false_passes_for_false(client: httpx2.Client, given: Any) -> None:
    account = client.post(ACCOUNTS, json=body_for("accounts", marketing_opt_in=given))
    assert (account.status_code, account.json()["marketing_opt_in"]) == (201, False)


def test_query_numbers_may_be_written_as_a_whole_decimal(client: httpx2.Client) -> None:
    response = client.get(TRANSACTIONS, params={**identity(), "limit": "7.0", "offset": "0"})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        str(INT64_MAX + 1),
        str(2**64 - 1),
        str(2**64),
        "9" * 400,
        "9" * 5000,
        f'"{INT64_MAX + 1}"',
        '"' + "9" * 5000 + '"',
        "1e19",
        "1e300",
    ],
    ids=lambda given: given[:24],
)
@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("charges", "amount_minor"),
        ("credits", "amount_minor"),
        ("accounts", "initial_balance_minor"),
    ],
)
def test_a_number_beyond_64_bits_is_refused(
    service: Service, client: httpx2.Client, endpoint: str, field: str, given: str
) -> None:
    user = make_account(service)
    body = json.dumps(body_for(endpoint, user, **{field: "AMOUNT"})).replace('"AMOUNT"', given)
    before = row_counts(service)
    faults_of(client.post(PATHS[endpoint], content=body, headers=JSON))
    assert row_counts(service) == before


@pytest.mark.parametrize("field", ["limit", "offset"])
@pytest.mark.parametrize("given", [str(2**63), str(2**64), "9" * 5000])
def test_a_page_beyond_64_bits_is_refused(client: httpx2.Client, field: str, given: str) -> None:
    response = client.get(TRANSACTIONS, params={**identity(), field: given})
    assert [entry["loc"] for entry in faults_of(response)] == [["query", field]]
