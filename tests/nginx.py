"""The real nginx with the project's own configuration, TLS included, in front of running servers.

with running_nginx([service.base_url]) as proxy:
    httpx2.get(f"{proxy.url}/health", verify=proxy.tls)
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import signal
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import Process, free_port, wait_for

TREE = Path(__file__).resolve().parent.parent
SOURCE = TREE / "nginx"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
# Limits so high that no benchmark and no test of something else reaches them.
UNLIMITED: dict[str, Any] = {
    name: value
    for zone in ("BILLING", "CONSOLE", "SIGN_IN", "PUBLIC")
    for name, value in (
        (f"PROXY_RATE_{zone}", "100000r/s"),
        (f"PROXY_BURST_{zone}", "100000"),
    )
} | {"PROXY_CONNECTIONS": "60000"}


def want_nginx() -> None:
    """Skips the test where nginx is not installed; in CI nothing may be missing."""
    if NGINX is None and os.environ.get("CI") != "true":
        pytest.skip("nginx is not installed")


def defaults() -> dict[str, str]:
    """The variables of the templates, as nginx/default.env has them."""
    lines = (SOURCE / "default.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def render(text: str, variables: Mapping[str, str]) -> str:
    """Renders a template as envsubst does with the names that the official image passes: $NAME and
    ${NAME} of a known name are replaced, and all other dollars are nginx's own."""

    def value(found: re.Match[str]) -> str:
        return variables.get(found[1] or found[2], found[0])

    return re.sub(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", value, text)


@dataclass
class Nginx:
    """A running nginx."""

    url: str
    http_url: str
    folder: Path
    ca: Path
    variables: dict[str, str]
    process: Process = field(init=False)

    @property
    def tls(self) -> ssl.SSLContext:
        """The TLS settings of a client that trusts its certificate."""
        return ssl.create_default_context(cafile=str(self.ca))

    @property
    def address(self) -> tuple[str, int]:
        """The address on which it serves TLS."""
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def client(self, local_address: str | None = None, **options: Any) -> httpx2.Client:
        """A client; by default from 127.0.0.1, but anything in 127/8 is this machine."""
        transport = httpx2.HTTPTransport(verify=self.tls, local_address=local_address)
        return httpx2.Client(base_url=self.url, transport=transport, timeout=30, **options)

    def log(self) -> list[dict[str, Any]]:
        """Its access log."""
        text = Path(self.variables["PROXY_ACCESS_LOG"]).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def everything_written(self) -> str:
        """All its logs."""
        return Path(self.variables["PROXY_ACCESS_LOG"]).read_text() + self.process.output

    def configure(self, upstreams: Sequence[str] = (), **variables: str) -> None:
        """Renders the templates with these variables and these servers behind nginx."""
        self.variables |= variables
        if upstreams:
            one = defaults()["PROXY_UPSTREAM_SERVERS"]
            servers = (one.replace("127.0.0.1:8000", urlsplit(url).netloc) for url in upstreams)
            self.variables["PROXY_UPSTREAM_SERVERS"] = " ".join(servers)
        (self.folder / "conf.d").mkdir(exist_ok=True)
        for template in (SOURCE / "templates").iterdir():
            target = self.folder / "conf.d" / template.name.removesuffix(".template")
            target.write_text(render(template.read_text(), self.variables))

    def reload(self, upstreams: Sequence[str], **variables: str) -> None:
        """Makes new processes take over with a new configuration. Returns when they have."""
        before = self._workers()
        self.configure(upstreams, **variables)
        self.process.process.send_signal(signal.SIGHUP)
        # The names of old processes end in "is shutting down"; they accept no new connection.
        wait_for(lambda: self._workers() - before and self._accepts(before), "nginx to reload")

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.process.pid).children()}

    def _accepts(self, old: set[int]) -> bool:
        """Whether no old process accepts connections any more."""
        for pid in old:
            with contextlib.suppress(psutil.NoSuchProcess):
                if "shutting down" not in " ".join(psutil.Process(pid).cmdline()):
                    return False
        return True

    @property
    def arguments(self) -> list[str]:
        """The command that runs it, as in docker-compose.yml."""
        main = f"daemon off; pid {self.folder}/nginx.pid;"
        if os.geteuid() == 0:
            main += " user root;"  # the files that the tests made are closed to other accounts
        return [
            *(NGINX or "nginx", "-e", "stderr"),
            *("-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-g", main),
        ]


@contextlib.contextmanager
def running_nginx(
    upstreams: Sequence[str], *, ipv6: bool = False, **variables: str
) -> Iterator[Nginx]:
    """nginx on free ports in front of the servers at these base URLs, until the block ends.
    `variables` are those of nginx/default.env. With `ipv6` it listens on ::1 instead of 127.0.0.1.
    """
    host = "[::1]" if ipv6 else "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="ciris-test-nginx-") as name:
        folder = Path(name)
        make_certificate(folder)
        https, http = free_port(), free_port()
        proxy = Nginx(
            f"https://{host}:{https}",
            f"http://{host}:{http}",
            folder,
            folder / "certificate.pem",
            {
                **defaults(),
                "PROXY_HTTP_PORT": f"{host}:{http}",
                "PROXY_HTTPS_PORT": f"{host}:{https}",
                "PROXY_PUBLIC_URL": f"https://{host}:{https}",
                "PROXY_CERTIFICATE": str(folder / "certificate.pem"),
                "PROXY_CERTIFICATE_KEY": str(folder / "key.pem"),
                "PROXY_STATIC_FOLDER": str(TREE / "static"),
                "PROXY_ACME_FOLDER": str(folder / "acme"),
                "PROXY_SCRATCH_FOLDER": str(folder),
                "PROXY_ACCESS_LOG": str(folder / "access.log"),
                **variables,
            },
        )
        shutil.copy(SOURCE / "nginx.conf", folder)
        shutil.copytree(SOURCE / "snippets", folder / "snippets")
        proxy.configure(upstreams)
        proxy.process = Process(proxy.arguments).start()
        try:
            wait_for(lambda: _listens(proxy), "nginx to listen")
            yield proxy
        finally:
            code = proxy.process.stop()
        assert code == 0, proxy.process.output


def _listens(proxy: Nginx) -> bool:
    assert proxy.process.process.poll() is None, proxy.process.output
    try:
        httpx2.get(f"{proxy.http_url}/", timeout=5, verify=False)
    except httpx2.TransportError:
        return False
    return True


def make_certificate(folder: Path) -> None:
    """certificate.pem, self-signed for this machine and billing.example.com, and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "billing.example.com")])
    now = datetime.now(UTC)
    names = [
        x509.DNSName("billing.example.com"),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
