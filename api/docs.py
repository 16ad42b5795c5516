"""`GET /docs`: the routes on one page, made from the OpenAPI document. Swagger's own page loads from another host."""

from __future__ import annotations

import asyncio
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quartet API</title><style>
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; color: #1e293b; }}
h2 {{ margin: 2rem 0 .5rem; text-transform: capitalize; font-size: 1.1rem; color: #0f766e; }}
section {{ border-top: 1px solid #e2e8f0; padding: .6rem 0; }}
section p {{ margin: .2rem 0; }}
code {{ font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .92em; }}
b {{ display: inline-block; min-width: 4.5rem; color: #0f766e; }}
table {{ border-collapse: collapse; font-size: .92em; }}
td {{ padding: .1rem 1rem .1rem 0; vertical-align: top; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #0f172a; color: #e2e8f0; }}
  section {{ border-color: #334155; }}
  h2, b {{ color: #5eead4; }} a {{ color: #5eead4; }} }}
</style></head><body><h1>Quartet API {version}</h1>
<p>The whole description for programs is at <a href="/openapi.json"><code>/openapi.json</code></a>. A service with
a token takes it in the header <code>Authorization: Bearer TOKEN</code>. Every error is
<code>{{"error": {{"code": "...", "message": "..."}}}}</code>.</p>{groups}</body></html>"""


def router(app: FastAPI) -> APIRouter:
    """The routes `GET /docs` and `GET /openapi.json`. Making the document takes a while: not on the event loop."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(await asyncio.to_thread(app.openapi)))

    @routes.get("/openapi.json")
    async def document() -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(app.openapi))

    return routes


def render(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document: its operations by tag, each with its parameters and the fields of its body."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["other"])[0]
            groups.setdefault(tag, []).append(_operation(document, method, path, operation))
    shown = "".join(f"<h2>{escape(tag)}</h2>{''.join(sections)}" for tag, sections in groups.items())
    return PAGE.format(version=escape(document["info"]["version"]), groups=shown)


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    fields = [(item["name"], item["schema"], item["in"]) for item in operation.get("parameters", [])]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(document, content["schema"])
        fields += [(name, value, media) for name, value in schema.get("properties", {}).items()]
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(schema))}</td><td>{escape(place)}</td></tr>"
        for name, schema, place in fields
    )
    text = operation.get("description", "")
    return (
        f"<section><p><b>{escape(method.upper())}</b><code>{escape(path)}</code></p>"
        f"<p>{escape(operation.get('summary', ''))}</p>"
        + (f"<p><small>{escape(text)}</small></p>" if text else "")
        + (f"<table>{rows}</table>" if rows else "")
        + "</section>"
    )


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference within the document points to."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document
    for step in schema["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return found


def _type(schema: dict[str, Any]) -> str:
    words = " or ".join(map(str, schema["enum"])) if "enum" in schema else str(schema.get("type", "any"))
    return f"{words}, default {schema['default']}" if schema.get("default") not in (None, "") else words
