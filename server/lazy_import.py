"""Imports large packages that only some requests need after the start, so that a server that has
just started answers sooner."""

from __future__ import annotations

import asyncio
import gc
from importlib import import_module
from typing import Any

_WARM_UP_SECONDS = 2.0


class LazyModule:
    """A module that is loaded when one of its attributes is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


async def load_modules(*names: str) -> None:
    """Loads modules in a thread once the server answers requests. Otherwise the first request that
    needs one would delay all other requests."""
    await asyncio.sleep(_WARM_UP_SECONDS)
    for name in names:
        await asyncio.to_thread(import_module, name)
    gc.freeze()  # these modules stay for good, like those loaded before
