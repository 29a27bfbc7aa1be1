"""Large packages that only some requests need are imported after the start, so that a server that
has just started answers sooner."""

from __future__ import annotations

import asyncio
import gc
from importlib import import_module
from typing import Any

_WARM_UP_SECONDS = 2.0


class LazyModule:
    """A module that is loaded when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


async def load_modules(*names: str) -> None:
    """Loads modules in a thread, when the server has begun to answer: who needs them first would
    make all others wait."""
    await asyncio.sleep(_WARM_UP_SECONDS)
    for name in names:
        await asyncio.to_thread(import_module, name)
    gc.freeze()  # they stay for good, as what was loaded before
