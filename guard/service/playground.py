"""The playground: one page at `/`, on which a person tries the service.

The one rule: the page runs its own script alone, parses no text as HTML and speaks to nobody but this service; the
browser is told to see to it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def routes() -> APIRouter:
    """The page, to be included in an application. It is for people, so `/openapi.json` does not name it."""
    router = APIRouter()
    page = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
    headers = {
        "cache-control": "no-store",
        "content-security-policy": _security_policy(page),
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    @router.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    return router


def _security_policy(page: str) -> str:
    """What the page may do: run the script and use the style that stand in it, show its icon, ask this service."""
    hashes = {name: base64.b64encode(hashlib.sha256(code.encode()).digest()) for name, code in _INLINE.findall(page)}
    return "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",
            *(f"{name}-src 'sha256-{digest.decode()}'" for name, digest in hashes.items()),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
