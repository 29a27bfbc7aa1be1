"""CIRIS Billing: gates AI agents' work by credits."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ciris-billing")
except PackageNotFoundError:  # a bare checkout, never installed
    __version__ = "0+unknown"
