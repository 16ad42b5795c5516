"""The login form. Own HTML: it has to work before anything of the page may be shown."""

from __future__ import annotations

import html
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from accounts.accounts import SESSION_SECONDS, Accounts
from accounts.types import OPERATOR, Visitor, user_name
from api.attempts import Attempts
from api.auth import COOKIE, Token
from backends.errors import InvalidRequest

FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quartet</title><style>
body {{ font: 16px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; margin: 0;
  min-height: 100vh; display: grid; place-items: center; background: #f4f4f5; color: #18181b; }}
h1 {{ margin: 0 0 1rem; font-size: 1.4rem; }}
label, input, button {{ display: block; width: 100%; box-sizing: border-box; font: inherit; }}
input {{ margin: .3rem 0 1rem; padding: .5rem; border: 1px solid #a1a1aa; border-radius: 8px; }}
button {{ padding: .6rem; border: 0; border-radius: 8px; background: #0f766e; color: #fff; cursor: pointer; }}
p {{ color: #b91c1c; margin: 0 0 1rem; }}
main {{ background: #fff; padding: 2rem; border-radius: 12px; box-shadow: 0 1px 4px #0002; width: min(22rem, 80vw); }}
details {{ margin-top: 1.2rem; }} details form {{ margin-top: 1rem; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #18181b; color: #fafafa; }}
  main {{ background: #27272a; }} input {{ background: #18181b; color: inherit; }} p {{ color: #fca5a5; }} }}
</style></head><body><main><h1>Quartet</h1>{problem}{forms}</main></body></html>"""
WITH_NAME = """<form method="post" action="/login"><label for="name">Name · 用户名</label>
<input id="name" name="name" autocomplete="username" maxlength="64" required autofocus>
<label for="password">Password · 密码</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in · 登录</button></form>"""
WITH_TOKEN = """<form method="post" action="/login"><label for="token">Token · 访问令牌</label>
<input id="token" name="token" type="password" autocomplete="off" required>
<button>Log in · 登录</button></form>"""  # noqa: S105  the form to type it into

WAY_OUT = """<form method="post" action="/logout"><button autofocus>Log out · 退出登录</button></form>"""
# Under "no-referrer" a browser posts a form with the Origin "null", which is refused like any foreign one.
HEADERS = {"Referrer-Policy": "same-origin", "Cache-Control": "no-store"}


def router(token: Token, accounts: Accounts, attempts: Attempts) -> APIRouter:
    """The routes `/login` and `/logout`: GET shows a form, POST is the form sent."""
    routes = APIRouter(include_in_schema=False)

    async def form(problem: str = "", status: int = 200, wait: int = 0) -> Response:
        by_token = WITH_TOKEN if token.required else ""
        if not await accounts.any():
            forms = by_token
        else:
            other = f"<details><summary>Token · 访问令牌</summary>{by_token}</details>" if by_token else ""
            forms = WITH_NAME + other
        shown = f'<p role="alert">{html.escape(problem)}</p>' if problem else ""
        headers = {"Retry-After": str(wait)} if wait else {}
        return HTMLResponse(FORM.format(problem=shown, forms=forms), status, HEADERS | headers)

    async def entered(given: dict[str, list[str]]) -> Visitor | None:
        if "name" in given:
            return await accounts.check(given["name"][0], given.get("password", [""])[0])
        return OPERATOR if token.matches(given.get("token", [""])[0].strip()) else None

    @routes.get("/login")
    async def show() -> Response:
        return await form() if token.required or await accounts.any() else RedirectResponse("/", 303)

    @routes.post("/login")
    async def login(request: Request) -> Response:
        if not token.required and not await accounts.any():
            return RedirectResponse("/", 303)
        given = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
        # Guesses are slowed down for who makes them, and for the account they are made at.
        keys = [f"from {request.client.host if request.client else ''}"]
        if "name" in given:
            keys.append(f"at {_folded(given['name'][0])}")
        if wait := max(map(attempts.wait, keys)):
            problem = f"Too many wrong guesses: try again in {wait} seconds. · 尝试次数过多,请在 {wait} 秒后重试。"
            return await form(problem, 429, wait)
        for key in keys:  # before it is checked, so that many guesses at the same time are counted as many
            attempts.failed(key)
        visitor = await entered(given)
        if visitor is None:
            if "name" in given:
                return await form("Name or password is not right. · 用户名或密码不正确。", 401)
            return await form("This token is not right. · 访问令牌不正确。", 401)
        for key in keys:
            attempts.undo(key)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            await accounts.begin_session(visitor, "" if visitor.name else token.proof),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @routes.get("/logout")
    async def ask(request: Request) -> Response:
        # A GET ends nothing: a picture in an answer may have this address.
        if not request.cookies.get(COOKIE):
            return RedirectResponse("/", 303)
        return HTMLResponse(FORM.format(problem="", forms=WAY_OUT), headers=HEADERS)

    @routes.post("/logout")
    async def logout(request: Request) -> Response:
        await accounts.end_session(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    return routes


def _folded(name: str) -> str:
    """One key for all ways to write the name of an account."""
    try:
        return user_name(name)
    except InvalidRequest:
        return ""
