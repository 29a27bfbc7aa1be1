"""OpenID Connect: authorization code with PKCE, by authlib. The provider is found by its discovery
document. What the provider says of a person is trusted only from an ID token that is signed by the
provider's own keys and was made for us and for this sign-in."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from server.config import StaffConfig
from server.lazy_import import LazyModule

if TYPE_CHECKING:
    import httpx2
    from authlib.common import errors as authlib_errors
    from authlib.integrations import httpx_client
    from authlib.oidc import core as oidc
    from joserfc import errors as jose_errors
    from joserfc import jwk, jwt
else:
    httpx2 = LazyModule("httpx2")
    authlib_errors = LazyModule("authlib.common.errors")
    httpx_client = LazyModule("authlib.integrations.httpx_client")
    oidc = LazyModule("authlib.oidc.core")
    jose_errors = LazyModule("joserfc.errors")
    jwk = LazyModule("joserfc.jwk")
    jwt = LazyModule("joserfc.jwt")

_TIMEOUT = 10.0
_DISCOVERY_SECONDS = 3600.0
_ALGORITHMS = ["RS256", "ES256"]  # never "none", whatever the provider's document says
_LEEWAY = 60
_NEEDED = ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri")


class SignInFailed(Exception):
    """The sign-in failed. The text is the reason that the page shows (contract.md 4)."""


class ProviderUnavailable(Exception):
    """The identity provider cannot be reached."""


@dataclass(frozen=True, slots=True)
class Person:
    """A person whom the provider has identified."""

    subject: str
    email: str
    name: str | None
    picture_url: str | None


class IdentityProvider:
    """The provider that staff sign in with."""

    def __init__(self, config: StaffConfig) -> None:
        self._config = config
        self._redirect_uri = f"{config.public_url}/admin/oauth/callback"
        self._metadata: dict[str, Any] = {}
        self._keys: Any = None
        self._read_at = 0.0

    async def authorization_url(
        self, state: str, nonce: str, verifier: str, hosted_domain: str
    ) -> str:
        """Returns the URL to send the browser to. Raises ProviderUnavailable."""
        metadata = await self._discover()
        async with self._client() as client:
            url, _ = client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=state,
                nonce=nonce,
                code_verifier=verifier,
                access_type="offline",
                prompt="select_account",
                hd=hosted_domain,
            )
        return str(url)

    async def person(self, code: str, verifier: str, nonce: str, hosted_domain: str) -> Person:
        """Returns the person that the code stands for. Raises SignInFailed, ProviderUnavailable."""
        metadata = await self._discover()
        try:
            async with self._client() as client:
                client.register_compliance_hook("access_token_response", _require_success)
                token = await client.fetch_token(
                    metadata["token_endpoint"], code=code, code_verifier=verifier
                )
        except httpx2.HTTPError:
            raise ProviderUnavailable from None
        except (authlib_errors.AuthlibBaseError, ValueError):
            raise SignInFailed("Failed to exchange authorization code") from None
        claims = await self._claims(token, nonce)
        email = str(claims.get("email") or "")
        if claims.get("email_verified") not in (True, "true"):
            raise SignInFailed("The e-mail address is not verified")
        # Google names the organisation of an account in this claim. An address at our domain alone
        # may be a stranger's.
        if claims.get("hd") is not None and str(claims["hd"]).lower() != hosted_domain:
            raise SignInFailed(f"Only @{hosted_domain} emails are allowed. Got: {email}")
        if claims.get("hd") is None and self._is_google(metadata):
            raise SignInFailed(f"Only @{hosted_domain} emails are allowed. Got: {email}")
        picture = claims.get("picture")
        return Person(
            subject=str(claims["sub"]),
            email=email,
            name=str(claims["name"]).replace("\0", "") if claims.get("name") else None,
            picture_url=picture if isinstance(picture, str) else None,
        )

    def _is_google(self, metadata: dict[str, Any]) -> bool:
        return str(metadata.get("issuer")) == "https://accounts.google.com"

    def _client(self) -> httpx_client.AsyncOAuth2Client:
        return httpx_client.AsyncOAuth2Client(
            self._config.client_id,
            self._config.client_secret,
            scope="openid email profile",
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT,
        )

    async def _claims(self, token: dict[str, Any], nonce: str) -> oidc.CodeIDToken:
        if "id_token" not in token:
            raise SignInFailed("Failed to get user information")
        metadata = await self._discover()
        try:
            decoded = await self._decode(token["id_token"])
            claims = oidc.CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "values": [metadata["issuer"]]},
                    "aud": {"essential": True, "value": self._config.client_id},
                    "exp": {"essential": True},
                    "sub": {"essential": True},
                    "nonce": {"essential": True},
                },
                {
                    "nonce": nonce,
                    "client_id": self._config.client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(leeway=_LEEWAY)
        except (
            jose_errors.JoseError,
            authlib_errors.AuthlibBaseError,
            ValueError,
            TypeError,
            KeyError,
        ):
            raise SignInFailed("Failed to get user information") from None
        return claims

    async def _decode(self, id_token: str) -> jwt.Token:
        try:
            return jwt.decode(id_token, self._keys, algorithms=_ALGORITHMS)
        except jose_errors.JoseError:
            await self._discover(anew=True)  # the provider may have changed its keys
            return jwt.decode(id_token, self._keys, algorithms=_ALGORITHMS)

    async def _discover(self, *, anew: bool = False) -> dict[str, Any]:
        """Reads the provider's document and keys, again every hour."""
        if anew or not self._metadata or time.monotonic() > self._read_at + _DISCOVERY_SECONDS:
            try:
                async with httpx2.AsyncClient(timeout=_TIMEOUT) as client:
                    found = await client.get(self._config.discovery_url)
                    metadata = found.raise_for_status().json()
                    if not all(isinstance(metadata[name], str) for name in _NEEDED):
                        raise ValueError("the document is not a provider's")
                    keys = await client.get(metadata["jwks_uri"])
                    self._keys = jwk.KeySet.import_key_set(keys.raise_for_status().json())
            except (httpx2.HTTPError, ValueError, KeyError, TypeError, jose_errors.JoseError):
                raise ProviderUnavailable from None
            self._metadata = metadata
            self._read_at = time.monotonic()
        return self._metadata


IDENTITY_PROVIDER = web.AppKey("identity_provider", IdentityProvider)


def _require_success(response: httpx2.Response) -> httpx2.Response:
    if response.status_code != 200:
        raise SignInFailed(f"Failed to exchange code: {response.status_code}")
    return response
