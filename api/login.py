"""The login form of a service with a token. Own HTML: it has to work before anything of the page may be shown."""

from __future__ import annotations

import html
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from api.auth import Token
from api.sessions import COOKIE, Attempts, Sessions

FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quartet</title><style>
body {{ font: 16px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; margin: 0;
  min-height: 100vh; display: grid; place-items: center; background: #f4f4f5; color: #18181b; }}
form {{ background: #fff; padding: 2rem; border-radius: 12px; box-shadow: 0 1px 4px #0002; width: min(22rem, 80vw); }}
h1 {{ margin: 0 0 1rem; font-size: 1.4rem; }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; font: inherit; }}
input {{ margin: .3rem 0 1rem; padding: .5rem; border: 1px solid #a1a1aa; border-radius: 8px; }}
button {{ padding: .6rem; border: 0; border-radius: 8px; background: #0f766e; color: #fff; cursor: pointer; }}
p {{ color: #b91c1c; margin: 0 0 1rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #18181b; color: #fafafa; }}
  form {{ background: #27272a; }} input {{ background: #18181b; color: inherit; }} p {{ color: #fca5a5; }} }}
</style></head><body><form method="post" action="/login"><h1>Quartet</h1>{problem}
<label for="token">Token · 访问令牌</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in · 登录</button></form></body></html>"""


def router(token: Token, sessions: Sessions, attempts: Attempts) -> APIRouter:
    """The routes `GET /login`, `POST /login` and `POST /logout`."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    async def form() -> Response:
        return _form() if token.required else RedirectResponse("/", 303)

    @routes.post("/login")
    async def login(request: Request) -> Response:
        if not token.required:
            return RedirectResponse("/", 303)
        address = request.client.host if request.client else ""
        wait = attempts.wait(address)
        if wait:
            problem = f"Too many wrong tokens: try again in {wait} seconds. · 尝试次数过多,请在 {wait} 秒后重试。"
            return _form(problem, 429, {"Retry-After": str(wait)})
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("token", [""])[0]
        if not token.matches(given.strip()):
            attempts.failed(address)
            return _form("This token is not right. · 访问令牌不正确。", 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            sessions.create(),
            max_age=sessions.lifetime,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return routes


def _form(problem: str = "", status: int = 200, headers: dict[str, str] | None = None) -> Response:
    shown = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
    # Under "no-referrer" a browser posts a form with the Origin "null", which is refused like any other foreign one.
    headers = {"Referrer-Policy": "same-origin", "Cache-Control": "no-store", **(headers or {})}
    return HTMLResponse(FORM.format(problem=shown), status, headers)
