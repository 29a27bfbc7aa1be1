"""Answers that their types make from rows."""

from typing import Annotated, Any, NotRequired

import pytest
from typing_extensions import TypedDict

from server.http.answers import From, reader


class Place(TypedDict):
    """Where it was."""

    channel_id: str
    thread_id: str | None


class Note(TypedDict):
    """Something with every kind of field."""

    id: Annotated[int, From("note_id")]
    place: Place
    length: Annotated[int, From(lambda row: len(row["text"]))]
    text: str
    read_at: NotRequired[Annotated[str, From("seen_at")]]


ROW = {
    "text": 'it\'s "quoted"',
    "place_thread_id": None,
    "note_id": 7,
    "seen_at": "now",
    "place_channel_id": "general",
}


def test_an_answer_has_the_fields_of_its_type_in_their_order() -> None:
    answer: Any = reader(Note, ROW)(ROW)
    assert list(answer.items()) == [
        ("id", 7),
        ("place", {"channel_id": "general", "thread_id": None}),
        ("length", 13),
        ("text", 'it\'s "quoted"'),
        ("read_at", "now"),
    ]


def test_what_need_not_be_there_is_left_out_when_it_is_null() -> None:
    answer = reader(Note, ROW)({**ROW, "seen_at": None})
    assert list(answer) == ["id", "place", "length", "text"]
    assert reader(Note, ROW)({**ROW, "seen_at": ""})["read_at"] == ""


@pytest.mark.parametrize("column", ["note_id", "place_thread_id", "text", "seen_at"])
def test_a_field_that_the_call_reads_no_column_for_is_refused_at_start(column: str) -> None:
    with pytest.raises(LookupError, match=f"the call reads no column {column}"):
        reader(Note, set(ROW) - {column})
