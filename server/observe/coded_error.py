"""Errors that may be told by name."""


class CodedError(Exception):
    """An error with a code of a closed set. A trace tells the code; of other errors it tells the
    class."""

    code: str
