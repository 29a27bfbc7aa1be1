"""Errors whose code may be shown in a trace."""


class CodedError(Exception):
    """An error with a code of a closed set. A trace shows the code; for other errors it shows the
    class."""

    code: str
