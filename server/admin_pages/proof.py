"""/admin/proof: up to when the ledger is sealed, and what the newest proof of the books found."""

from __future__ import annotations

from aiohttp import web

from server.admin_pages.page import render
from server.gateway import functions
from server.staff.guard import Visit


async def show(request: web.Request, visit: Visit) -> web.StreamResponse:
    """Shows the newest seal and the newest proof."""
    proof = await visit.row(functions.get_proof())
    return await render(visit, "admin/proof.html", proof=proof)
