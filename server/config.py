"""Configuration from environment variables and files (design.md 3).

Every secret NAME may instead be given as NAME_FILE, the path of a file that holds it. All faults
are collected and reported together. A fault never quotes a value, since the value may be a secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from server.limits import CURRENCY_CODE, INT64_MAX
from server.payment_kinds import PROVIDER_KINDS

_DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg")
_MINIMUM_SECRET_LENGTH = 32
_PROVIDER_TIMEOUT = 4.0  # one attempt; there are two, and our clients wait ten seconds
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ConfigError(Exception):
    """The configuration cannot be used; `faults` lists everything that is wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


_GOOGLE = "https://accounts.google.com/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class StaffConfig:
    """The configuration of the staff console. `public_url` is the address that browsers use; it is
    never taken from a request. `sign_in_command` is there in `ciris-billing dev` only: the command
    that makes another of its local sign-in links."""

    secret: str = field(repr=False)
    public_url: str
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    discovery_url: str = _GOOGLE
    sign_in_command: str | None = None

    @property
    def sign_in_links(self) -> bool:
        """Whether local sign-in links work."""
        return self.sign_in_command is not None

    @property
    def secure_cookies(self) -> bool:
        """Whether cookies go over TLS only. They always do, except in `dev`, which has no TLS."""
        return not self.sign_in_links


@dataclass(frozen=True, slots=True)
class ProviderConnection:
    """How to reach a payment provider. `base_url` replaces the provider's own address, for tests.
    `timeout`, in seconds, is for one attempt."""

    base_url: str | None = None
    timeout: float = _PROVIDER_TIMEOUT


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """The configuration of `ciris-billing serve`. Times are in seconds, sizes in bytes."""

    database_url: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    log_level: str = "INFO"
    access_log_sample: float = 0.01
    max_body_bytes: int = 1024 * 1024
    max_queue: int = 5000
    statement_timeout: float = 5.0
    lock_timeout: float = 2.0
    connect_timeout: float = 0.8
    watch_interval: float = 60.0
    tls_certificate_file: str | None = None
    purchase_url: str | None = None
    webhook_networks: tuple[str, ...] = ()  # private networks that alerts may be sent to
    webhook_timeout: float = 10.0
    encryption_keys: tuple[str, ...] = field(default=(), repr=False)  # newest first
    provider_connections: Mapping[str, ProviderConnection] = field(default_factory=dict)
    trusted_proxies: tuple[str, ...] = ()  # networks of proxies whose X-Forwarded-For is trusted
    staff: StaffConfig | None = None
    pooler: str = "none"
    read_url: str | None = None
    read_max_lag: float = 10.0


@dataclass(frozen=True, slots=True)
class SettingsSeed:
    """Business settings for the first deploy; None keeps the schema's default."""

    free_uses: int | None = None
    pack_uses: int | None = None
    pack_price_minor: int | None = None
    pack_currency: str | None = None
    admin_email_domain: str | None = None
    founders: tuple[str, ...] = ()  # invited at every deploy until they have signed in
    old_names: tuple[str, ...] = ()  # sentences about variables that should be renamed


# Names of the old service that differ from ours. Its other names mean the same here.
OLD_NAMES = {
    "FREE_USES_PER_ACCOUNT": "FREE_USES",
    "PAID_USES_PER_PURCHASE": "PACK_USES",
    "PRICE_PER_PURCHASE_MINOR": "PACK_PRICE_MINOR",
}


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.faults: list[str] = []

    def secret(self, name: str, *, required: bool, hint: str = "") -> str | None:
        direct, path = self.env.get(name), self.env.get(f"{name}_FILE")
        if direct and path:
            self.faults.append(f"{name} and {name}_FILE are both set: keep one")
        elif path:
            try:
                direct = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8 text"
                self.faults.append(f"{name}_FILE cannot be read: {reason}")
                return None
            if not direct:
                self.faults.append(f"{name}_FILE names an empty file")
                return None
        if not direct and required:
            self.faults.append(f"{name} is not set: {hint}")
        return direct or None

    def database_url(self, name: str, *, required: bool) -> str | None:
        hint = "set it, or NAME_FILE, to postgresql://user:password@host:port/database".replace(
            "NAME", name
        )
        url = self.secret(name, required=required, hint=hint)
        if url is None:
            return None
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _DATABASE_SCHEMES:
            self.faults.append(f"{name} must start with one of {', '.join(_DATABASE_SCHEMES)}://")
            return None
        if not _is_well_formed(rest):
            self.faults.append(
                f"{name} is not a well-formed URL: check host and port, and percent-encode"
                " special characters in user and password"
            )
            return None
        return f"postgresql://{rest}"

    def pooler(self) -> str:
        """Reads DATABASE_POOLER: which pooler, if any, stands between us and the database."""
        kind = self.env.get("DATABASE_POOLER") or "none"
        if kind not in ("none", "transaction"):
            self.faults.append("DATABASE_POOLER must be none or transaction")
        return kind

    def strong_secret(self, name: str, *, required: bool) -> str | None:
        value = self.secret(
            name,
            required=required,
            hint=f"set it, or {name}_FILE, to at least {_MINIMUM_SECRET_LENGTH} random characters",
        )
        return value if value is not None and self._is_strong(name, value) else None

    def encryption_keys(self, *, required: bool) -> tuple[str, ...]:
        """Reads ENCRYPTION_KEY: one or more keys, newest first, separated by commas or white
        space."""
        name = "ENCRYPTION_KEY"
        value = self.secret(
            name,
            required=required,
            hint=f"set it, or {name}_FILE, to at least {_MINIMUM_SECRET_LENGTH} random characters",
        )
        keys = re.split(r"[,\s]+", value.strip(", \t\r\n")) if value else []
        return tuple(keys) if all(self._is_strong(name, key) for key in keys) else ()

    def _is_strong(self, name: str, value: str) -> bool:
        if len(value) >= _MINIMUM_SECRET_LENGTH and len(set(value)) >= _MINIMUM_SECRET_LENGTH // 4:
            return True
        self.faults.append(
            f"{name} is too weak: use at least {_MINIMUM_SECRET_LENGTH} random characters"
        )
        return False

    def api_base(self, name: str) -> str | None:
        """Reads an address that secrets are sent to: it must be HTTPS or on this machine."""
        value = self.pattern(name, r"https?://[^\s/?#@]+/?", "an address like https://host:port")
        if value is None:
            return None
        try:
            _ = urlsplit(value).port
            is_safe = _is_safe_address(value)
        except ValueError:
            self.faults.append(f"{name} must be an address like https://host:port")
            return None
        if not is_safe:
            self.faults.append(f"{name} must be https: secrets go there")
            return None
        return value.rstrip("/")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.env.get(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            self.faults.append(f"{name} must be a number")
            return default
        if not low <= value <= high:
            self.faults.append(f"{name} must be between {low:g} and {high:g}")
            return default
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            self.faults.append(f"{name} must be a whole number")
            return default
        return int(value)

    def understand_old_names(self) -> tuple[str, ...]:
        """Reads the old service's variables where ours are not set. Upper and lower case do not
        matter, as in the old service. Returns a sentence for each variable that should be renamed.
        """
        given = {name.upper(): value for name, value in self.env.items() if value}
        found = {old: ours for old, ours in OLD_NAMES.items() if old in given}
        self.env = {
            **{ours: given[old] for old, ours in found.items()},
            **{name: value for name, value in self.env.items() if value},
        }
        return tuple(
            f"{old} is the old service's name and will not be understood by the next release:"
            f" call it {ours}"
            for old, ours in found.items()
        )

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        return self.integer(name, low, low, high) if self.env.get(name) else None

    def pattern(self, name: str, pattern: str, what: str) -> str | None:
        value = self.env.get(name)
        if value and not re.fullmatch(pattern, value):
            self.faults.append(f"{name} must be {what}")
            return None
        return value or None

    def domain(self, name: str) -> str | None:
        """Reads a domain in lower case, as identity providers write it."""
        value = self.pattern(name, r"[A-Za-z0-9.-]+\.[A-Za-z]+", "a domain like example.com")
        return None if value is None else value.lower()

    def networks(self, name: str) -> tuple[str, ...]:
        """Reads addresses and networks (10.0.0.0/24), separated by commas or white space."""
        try:
            parts = re.split(r"[,\s]+", self.env.get(name, "").strip(", \t\r\n"))
            return tuple(str(ipaddress.ip_network(part)) for part in parts if part)
        except ValueError:
            self.faults.append(f"{name} must be addresses or networks like 10.0.0.0/24")
            return ()

    def provider_connection(self, kind: str) -> ProviderConnection:
        prefix = kind.upper()
        return ProviderConnection(
            self.api_base(f"{prefix}_API_BASE"),
            self.number(f"{prefix}_TIMEOUT", _PROVIDER_TIMEOUT, 0.1, 60),
        )

    def finish(self) -> None:
        if self.faults:
            raise ConfigError(self.faults)


def _is_safe_address(url: str) -> bool:
    return url.startswith("https:") or urlsplit(url).hostname in _LOOPBACK


def _is_well_formed(rest: str) -> bool:
    """Whether the part after the scheme can be parsed. Libraries quote it when it cannot."""
    if "#" in rest or re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        return False
    try:
        parts = urlsplit(f"postgresql://{rest}")
        _ = "," in parts.netloc or parts.port  # several hosts have several ports
    except ValueError:
        return False
    return True


def load_serve_config(env: Mapping[str, str]) -> ServeConfig:
    """Reads what `serve` needs. Raises ConfigError with every fault."""
    read = _Reader(env)
    url = read.database_url("DATABASE_URL", required=True)
    defaults = ServeConfig(database_url="")
    level = (env.get("LOG_LEVEL") or defaults.log_level).upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        read.faults.append("LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR")
    config = ServeConfig(
        database_url=url or "",
        host=env.get("HOST") or defaults.host,
        port=read.integer("PORT", defaults.port, 1, 65535),
        workers=read.integer("WORKERS", defaults.workers, 1, 256),
        log_level=level,
        access_log_sample=read.number("ACCESS_LOG_SAMPLE", defaults.access_log_sample, 0, 1),
        max_body_bytes=read.integer("MAX_BODY_BYTES", defaults.max_body_bytes, 1024, 64 << 20),
        max_queue=read.integer("MAX_QUEUE", defaults.max_queue, 1, 1_000_000),
        statement_timeout=read.number("STATEMENT_TIMEOUT", defaults.statement_timeout, 0.1, 60),
        lock_timeout=read.number("LOCK_TIMEOUT", defaults.lock_timeout, 0.05, 60),
        watch_interval=read.number("WATCH_INTERVAL", defaults.watch_interval, 1, 3600),
        tls_certificate_file=env.get("TLS_CERTIFICATE_FILE") or None,
        purchase_url=read.pattern(
            "PURCHASE_URL", r"https?://[^\s\x00-\x1f]+", "an http or https address"
        ),
        encryption_keys=read.encryption_keys(required=False),
        provider_connections={kind: read.provider_connection(kind) for kind in PROVIDER_KINDS},
        pooler=read.pooler(),
        read_url=read.database_url("DATABASE_READ_URL", required=False),
        read_max_lag=read.number("READ_MAX_LAG", defaults.read_max_lag, 2, 3600),
        trusted_proxies=read.networks("TRUSTED_PROXIES"),
        webhook_networks=read.networks("WEBHOOK_ALLOWED_NETWORKS"),
        webhook_timeout=read.number("WEBHOOK_TIMEOUT", defaults.webhook_timeout, 0.5, 30),
    )
    config = replace(config, staff=_staff_config(read, config))
    read.finish()
    return config


def _staff_config(read: _Reader, serve: ServeConfig) -> StaffConfig | None:
    """The console's configuration. None when no secret for signing is set: the console is closed
    then."""
    client_id = read.env.get("GOOGLE_CLIENT_ID") or None
    secret = read.strong_secret("ADMIN_JWT_SECRET", required=client_id is not None)
    client_secret = read.secret(
        "GOOGLE_CLIENT_SECRET",
        required=client_id is not None,
        hint="set it, or GOOGLE_CLIENT_SECRET_FILE, to the secret of GOOGLE_CLIENT_ID",
    )
    public_url = read.api_base("PUBLIC_BASE_URL")
    if client_id and not read.env.get("PUBLIC_BASE_URL"):
        read.faults.append("PUBLIC_BASE_URL is not set: where browsers reach this service")
    discovery_url = read.pattern("OIDC_DISCOVERY_URL", r"https?://[^\s]+", "an address")
    if discovery_url and not _is_safe_address(discovery_url):
        read.faults.append("OIDC_DISCOVERY_URL must be https")
    if secret is None:
        return None
    return StaffConfig(
        secret=secret,
        public_url=public_url or f"http://{serve.host}:{serve.port}",
        client_id=client_id,
        client_secret=client_secret,
        discovery_url=discovery_url or _GOOGLE,
    )


def load_database_url(env: Mapping[str, str]) -> str:
    """Reads the URL of the database that commands like `keys` work on. Raises ConfigError."""
    read = _Reader(env)
    url = read.database_url("DATABASE_URL", required=True)
    read.finish()
    assert url is not None
    return url


def load_migration_config(env: Mapping[str, str]) -> tuple[str, SettingsSeed]:
    """Reads the owner's database URL (MIGRATION_DATABASE_URL, else DATABASE_URL) and the settings
    that a first deploy seeds. Raises ConfigError."""
    read = _Reader(env)
    url = read.database_url("MIGRATION_DATABASE_URL", required=False)
    if url is None and not read.faults and read.pooler() == "transaction":
        # The lock of `migrate` belongs to a session, and a pooler in transaction mode gives no
        # session of its own.
        read.faults.append(
            "MIGRATION_DATABASE_URL is not set: with DATABASE_POOLER=transaction it must lead to"
            " the database itself"
        )
    elif url is None and not read.faults:
        url = read.database_url("DATABASE_URL", required=True)
    old_names = read.understand_old_names()
    seed = SettingsSeed(
        free_uses=read.optional_integer("FREE_USES", 0, INT64_MAX),
        pack_uses=read.optional_integer("PACK_USES", 1, INT64_MAX),
        pack_price_minor=read.optional_integer("PACK_PRICE_MINOR", 1, INT64_MAX),
        pack_currency=read.pattern("PACK_CURRENCY", CURRENCY_CODE, "three capital letters"),
        admin_email_domain=read.domain("ADMIN_EMAIL_DOMAIN"),
        founders=tuple(filter(None, re.split(r"[,\s]+", read.env.get("ADMIN_EMAILS", "")))),
        old_names=old_names,
    )
    read.finish()
    assert url is not None
    return url, seed


def load_encryption_keys(env: Mapping[str, str]) -> tuple[str, ...]:
    """Reads the keys of ENCRYPTION_KEY, newest first; none when it is not set. Raises ConfigError
    for a weak key."""
    read = _Reader(env)
    keys = read.encryption_keys(required=False)
    read.finish()
    return keys


def load_admin_jwt_secret(env: Mapping[str, str]) -> str:
    """Reads the secret that signs staff tokens. Raises ConfigError when it is missing or weak: with
    a default secret anybody could make a token (contract.md 8.19)."""
    read = _Reader(env)
    secret = read.strong_secret("ADMIN_JWT_SECRET", required=True)
    read.finish()
    assert secret is not None
    return secret


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The configuration of commands about a payment provider."""

    encryption_keys: tuple[str, ...] = field(repr=False)
    connection: ProviderConnection
    given: Mapping[str, str] = field(repr=False)


def setting_variable(kind: str, setting: str) -> str:
    """The environment variable by which the commands read a payment provider's setting."""
    return f"{kind}_{setting}".upper()


def load_provider_config(
    env: Mapping[str, str],
    kind: str = PROVIDER_KINDS[0],
    settings: Iterable[str] = (),
    *,
    need_keys: bool = True,
) -> ProviderConfig:
    """Reads the keys that decrypt a provider's configuration, and the values of its settings in the
    environment, such as STRIPE_API_KEY or STRIPE_API_KEY_FILE. Raises ConfigError, also when there
    are no keys, unless `need_keys` is false."""
    read = _Reader(env)
    keys = read.encryption_keys(required=need_keys)
    given = {name: read.secret(setting_variable(kind, name), required=False) for name in settings}
    config = ProviderConfig(
        keys,
        read.provider_connection(kind),
        {name: value for name, value in given.items() if value is not None},
    )
    read.finish()
    return config
