"""Pages for people: what this is, the reference, the errors. No page asks another host for anything."""

import html
import json
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from app.core.errors import NotFound
from app.http.error_help import ADVICE
from app.http.problems import NO_SUCH_ADDRESS, classes_by_code

# Swagger UI draws its icons from data URLs; nothing may come from elsewhere, and no script may stand in a page.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MEDIA_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
    "start.js": "text/javascript",
    "page.css": "text/css",
}
SWAGGER_OPTIONS: Final = {
    "url": "openapi.json",
    "dom_id": "#swagger-ui",
    "deepLinking": True,
    "validatorUrl": None,
    "tryItOutEnabled": True,
}
STYLE: Final = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
pre { background: #f3f3f3; padding: 1rem; overflow-x: auto; }
dt { font-weight: 600; margin-top: 1rem; }
"""

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home(request: Request) -> Response:
    """What the service is, and in a demonstration the first request to try."""
    return _page(
        "Proxima",
        [
            "<h1>Proxima</h1>",
            "<p>What each learner has mastered, how sure that is, and what comes next and why.</p>",
            *_demo(getattr(request.app.state, "demo", None)),
            '<ul><li><a href="docs">Reference of the interface</a></li>',
            '<li><a href="openapi.json">OpenAPI document</a></li>',
            '<li><a href="errors">Errors and what to do about them</a></li></ul>',
        ],
    )


def _demo(demo: object) -> list[str]:
    if demo is None:
        return []
    key, course, curl = (html.escape(str(getattr(demo, name))) for name in ("key", "course", "curl"))
    return [
        f"<p>This is a demonstration with the course <b>{course}</b>. Its key is <code>{key}</code>. Try:</p>",
        f"<pre>{curl}</pre>",
    ]


@router.get("/errors")
async def errors() -> Response:
    """Where the `type` of every problem points to."""
    entries = [
        f'<dt id="{code}">{html.escape(error.title)} (<code>{code}</code>)</dt><dd>{html.escape(ADVICE[code])}</dd>'
        for code, error in sorted(classes_by_code().items())
    ]
    return _page("Errors", ["<h1>Errors</h1>", "<dl>", *entries, "</dl>"])


@router.get("/docs")
async def reference() -> Response:
    """Swagger UI."""
    return Response(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Proxima: reference</title>'
        '<link rel="icon" href="docs/favicon.png"><link rel="stylesheet" href="docs/swagger-ui.css"></head>'
        '<body><div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script>'
        '<script src="docs/start.js"></script></body></html>',
        headers=HEADERS,
        media_type="text/html",
    )


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """The files that the pages are made with."""
    if name not in MEDIA_TYPES:
        raise NotFound(NO_SUCH_ADDRESS)
    return Response(_asset(name), headers={**HEADERS, "Cache-Control": "max-age=3600"}, media_type=MEDIA_TYPES[name])


@cache
def _asset(name: str) -> bytes:
    match name:
        case "start.js":
            return f"SwaggerUIBundle({json.dumps(SWAGGER_OPTIONS)})".encode()
        case "page.css":
            return STYLE.encode()
        case _:
            return (files("fastapi_offline") / "static" / name).read_bytes()


def _page(title: str, lines: list[str]) -> Response:
    return Response(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<link rel="icon" href="docs/favicon.png"><link rel="stylesheet" href="docs/page.css"></head>'
        f"<body>{''.join(lines)}</body></html>",
        headers=HEADERS,
        media_type="text/html",
    )
