"""Files that pages refer to, under names that change with their content, so that browsers may keep them."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from exotrio.manager.rules.errors import not_found

HERE = Path(__file__).parent / "static"
TYPES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (HERE / name).read_bytes()
    return content, sha256(content).hexdigest()[:12]


def asset(name: str) -> str:
    """Return the path of a file."""
    return f"/static/{_content(name)[1]}/{name}"


def style(name: str = "style.css") -> str:
    """Return a style sheet, for a page that stands alone."""
    return _content(name)[0].decode()


async def serve_asset(request: Request) -> Response:
    """Serve one of the files."""
    name = request.path_params["name"]
    if name not in TYPES:
        raise not_found(f"there is no file {name!r}")
    content, version = _content(name)
    kept = "public, max-age=31536000, immutable" if request.path_params["version"] == version else "no-cache"
    return Response(content, headers={"content-type": TYPES[name], "cache-control": kept})
