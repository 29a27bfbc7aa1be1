"""Browser sessions. The cookie holds a random id and a CSRF token, encrypted. The database knows
whose session it is and whether it is still valid. A second, short-lived cookie carries a sign-in
under way and binds it to the browser; a third shows a message once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from aiohttp_session import Session
from aiohttp_session.cookie_storage import EncryptedCookieStorage

from server.config import StaffConfig
from server.encryption import derived_key
from server.staff.admin_token import hashed

SESSION_SECONDS = 24 * 3600
SIGN_IN_SECONDS = 600
_FLASH_SECONDS = 60
# Encryption makes them half as long again, and browsers drop cookies over 4 KB.
_SIGN_INS_BYTES = 2400


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """The contents of the session cookie."""

    id: str
    csrf_token: str

    @property
    def hash(self) -> bytes:
        """The hash by which the database knows the session."""
        return hashed(self.id)


class Cookies:
    """The three cookies. They are sent over TLS only (except in `dev`), hidden from scripts, and
    not sent with requests from other sites except when a link is followed."""

    def __init__(self, config: StaffConfig) -> None:
        self._config = config
        self._session = self._storage("admin_token", SESSION_SECONDS, "/")
        self._sign_in = self._storage("admin_sign_in", SIGN_IN_SECONDS, "/admin")
        self._flash = self._storage("admin_flash", _FLASH_SECONDS, "/admin")

    def _storage(self, name: str, seconds: int, path: str) -> EncryptedCookieStorage:
        return EncryptedCookieStorage(
            derived_key(self._config.secret, f"cookie {name}").decode(),
            cookie_name=name,
            max_age=seconds,
            path=path,
            secure=self._config.secure_cookies,
            httponly=True,
            samesite="Lax",
        )

    async def session(self, request: web.Request) -> BrowserSession | None:
        """The session that the browser presents, if its cookie is one of ours."""
        data = await _load(self._session, request)
        if not isinstance(data.get("id"), str) or not isinstance(data.get("csrf"), str):
            return None
        return BrowserSession(data["id"], data["csrf"])

    async def set_session(
        self, request: web.Request, response: web.StreamResponse, session: BrowserSession
    ) -> None:
        """Gives the browser a session."""
        await self._save(
            self._session, request, response, {"id": session.id, "csrf": session.csrf_token}
        )

    async def end_session(self, request: web.Request, response: web.StreamResponse) -> None:
        """Takes the session away from the browser."""
        await self._save(self._session, request, response, {})

    async def sign_ins(self, request: web.Request) -> list[dict[str, str]]:
        """The sign-ins that this browser began and has not finished, each in a tab of its own."""
        begun = (await _load(self._sign_in, request)).get("begun")
        return list(begun) if isinstance(begun, list) else []

    async def set_sign_ins(
        self, request: web.Request, response: web.StreamResponse, begun: list[dict[str, str]]
    ) -> None:
        """Stores sign-ins under way in the browser: the newest, as many as fit into a cookie."""
        while len(orjson.dumps(begun)) > _SIGN_INS_BYTES:
            begun = begun[1:]
        await self._save(self._sign_in, request, response, {"begun": begun} if begun else {})

    async def flash(self, request: web.Request) -> dict[str, str] | None:
        """The message to show once, if there is one."""
        message = await _load(self._flash, request)
        return message or None

    async def set_flash(
        self, request: web.Request, response: web.StreamResponse, message: dict[str, str]
    ) -> None:
        """Shows a message on the next page, however long that takes."""
        await self._save(self._flash, request, response, message)

    async def _save(
        self,
        storage: EncryptedCookieStorage,
        request: web.Request,
        response: web.StreamResponse,
        values: Mapping[str, Any],
    ) -> None:
        session = Session(None, data=None, new=True, max_age=storage.max_age)
        session.update(values)
        await storage.save_session(request, response, session)


COOKIES = web.AppKey("cookies", Cookies)


async def _load(storage: EncryptedCookieStorage, request: web.Request) -> dict[str, Any]:
    """The contents of the cookie that the browser presents, if it is one of ours."""
    try:
        return dict(await storage.load_session(request))
    except UnicodeError:  # the bytes are not text
        return {}


def new_session() -> BrowserSession:
    """A new session, which belongs to nobody yet."""
    return BrowserSession(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
