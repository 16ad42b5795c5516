"""The account panel in a real browser: tokens of one's own, accounts for admins, and the way out."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.api.people import PASSWORD, House, log_in
from tests.browser import Visit
from tests.running_server import RunningServer

pytestmark = pytest.mark.xdist_group("account-panel")  # one server for all of them


def page_of(house: House, visit: Visit, name: str, locale: str = "en-US") -> Page:
    """The page in a browser in which `name` has logged in."""
    with house.server.client() as client:
        assert log_in(client, name).status_code == 303
        secret = client.cookies["quartet_session"]
    cookie = {"name": "quartet_session", "value": secret, "url": house.server.url}
    window = visit(house.server.url, locale, storage_state={"cookies": [cookie | PLAIN], "origins": []})
    return window.page


PLAIN = {"httpOnly": True, "sameSite": "Strict", "secure": False}


def me(house: House, secret: str) -> int:
    return house.server.get("/api/me", headers={"Authorization": secret}).status_code


def test_a_token_is_made_used_and_revoked(house: House, visit: Visit) -> None:
    page = page_of(house, visit, "bob")
    page.get_by_role("button", name="Account").click()
    expect(page.locator("#account-who")).to_contain_text("bob")
    page.fill("#token-name input, #token-name textarea", "backup <b>script</b>")
    page.click("#token-make")
    secret = page.locator("#token-secret input, #token-secret textarea")
    expect(secret).to_have_value(re.compile("^qt-"))
    made = secret.input_value()
    expect(page.locator("#account-tokens")).to_contain_text("backup <b>script</b>")
    assert me(house, made) == 200
    page.click("#token-chosen input")
    page.get_by_role("option", name="backup").click()
    page.click("#token-revoke")
    expect(secret).to_have_count(0)
    expect(page.locator("#account-tokens")).not_to_contain_text("backup")
    assert me(house, made) == 401
    expect(page.locator("#users")).to_have_count(0)  # only admins manage accounts


def test_an_admin_adds_changes_and_removes_an_account(house: House, visit: Visit) -> None:
    page = page_of(house, visit, "ann")
    page.get_by_role("button", name="Users").click()
    people = page.locator("#users")
    expect(people).to_contain_text("eve")
    page.fill("#user-name input, #user-name textarea", "Zoe")
    page.fill("#user-password input", "short")
    page.click("#user-add")
    expect(page.locator(".toast-body")).to_contain_text("password")
    page.fill("#user-password input", PASSWORD)
    page.click("#user-add")
    expect(people).to_contain_text("zoe")
    expect(page.locator("#user-password input")).to_have_value("")
    with house.server.client() as client:
        assert log_in(client, "zoe").status_code == 303
    page.click("#user-remove")
    expect(page.locator("#user-sure")).to_contain_text("Zoe")
    page.click("#user-remove-sure")
    expect(people).not_to_contain_text("zoe")
    with house.server.client() as client:
        assert log_in(client, "zoe").status_code == 401


def test_who_logs_out_is_shown_the_login_form_and_is_out(house: House, visit: Visit) -> None:
    page = page_of(house, visit, "eve", "zh-CN")
    page.get_by_role("button", name="账户").click()
    page.click("#account-log-out")
    page.get_by_role("button", name="Log out · 退出登录").click()
    expect(page.locator("#password")).to_be_visible()
    page.goto(house.server.url)
    expect(page.locator("#password")).to_be_visible()


def test_where_nobody_logs_in_there_is_no_such_panel(server: RunningServer, visit: Visit) -> None:
    page = visit(server.url).page
    expect(page.locator("#model-load")).to_be_visible()
    expect(page.locator("#account")).to_have_count(0)
