"""CIRIS Billing: gates AI agents' work by credits."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ciris-billing")
except PackageNotFoundError:  # the package runs from a checkout and was never installed
    __version__ = "0+unknown"
