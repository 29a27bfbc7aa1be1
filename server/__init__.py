"""CIRIS Billing: gates AI agents' work by credits."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Looks the version up when a caller asks for it: importing importlib.metadata takes longer
    than some commands."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ciris-billing")
    except PackageNotFoundError:  # the package runs from a checkout and was never installed
        return "0+unknown"
