"""Pages of a list: which rows to ask a function for, and which of them to show."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import urlencode

from server.admin_pages.page import PAGE_SIZE


class Window(TypedDict):
    """Which rows of a list."""

    limit: int
    offset: int


def window(number: int) -> Window:
    """The limit and offset of a page. One row more than is shown tells whether there is a next
    page."""
    return {"limit": PAGE_SIZE + 1, "offset": (number - 1) * PAGE_SIZE}


def list_page(
    rows: Sequence[Any],
    number: int,
    path: str,
    query: Mapping[str, str],
    anchor: str = "",
    *,
    next_cursor: str | None = None,
) -> dict[str, Any]:
    """A page's rows and its pager, whose links keep `query` and lead to `anchor`. Where the list
    has cursors, the next page begins at one, whatever rows are added meanwhile."""

    def address(other: int, **more: str) -> str:
        return f"{path}?{urlencode({**query, 'page': str(other), **more})}{anchor}"

    following = None
    if next_cursor is not None:
        following = address(number + 1, cursor=next_cursor)
    elif len(rows) > PAGE_SIZE:
        following = address(number + 1)

    return {
        "rows": rows[:PAGE_SIZE],
        "number": number,
        "pager": {
            "number": number,
            "first": address(1),
            "previous": address(number - 1) if number > 1 else None,
            "next": following,
        },
    }
