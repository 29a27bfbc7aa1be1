"""When the public certificate expires, for the alarm. nginx serves the certificate but has no
metrics of its own; this server only reads the file (TLS_CERTIFICATE_FILE), never its key."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from server.lazy_import import LazyModule
from server.observe import metrics

if TYPE_CHECKING:
    from cryptography import x509
else:
    x509 = LazyModule("cryptography.x509")

_LOG = logging.getLogger(__name__)
_INTERVAL = 3600.0


def expiry(path: Path) -> float:
    """The time, in seconds since 1970, at which the first certificate of a PEM file expires. Raises
    OSError, ValueError."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


async def watch(path: Path) -> None:
    """Updates the metric now and every hour, for ever. A file that cannot be read counts as
    expired, because otherwise nobody would notice that the alarm no longer works."""
    while True:
        try:
            at = await asyncio.to_thread(expiry, path)
        except (OSError, ValueError) as error:
            _LOG.error("TLS_CERTIFICATE_FILE cannot be read: %s", type(error).__name__)
            at = 0.0
        metrics.TLS_CERTIFICATE_EXPIRY.labels("public").set(at)
        await asyncio.sleep(_INTERVAL)
