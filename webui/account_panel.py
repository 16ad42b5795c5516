"""The account panel: who is here, logging out, tokens of one's own, and for admins all accounts; knows no database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from accounts.types import ROLES, ApiToken
from backends.errors import QuartetError
from webui import markup
from webui.notice import say_error
from webui.texts import Texts
from webui.visitor import is_admin, visitor

if TYPE_CHECKING:
    from accounts.accounts import Accounts
    from accounts.types import Visitor


def build_account_panel(texts: Texts, demo: gr.Blocks, accounts: Accounts, token_needed: bool) -> None:
    """Put the panel into the Blocks that are open now. It is shown where one has to log in."""
    with gr.Accordion(texts.account, open=False, visible=False, elem_id="account") as panel:
        who = gr.Markdown(elem_id="account-who")
        gr.Button(texts.log_out, link="./logout", link_target="_self", size="sm", elem_id="account-log-out")
        with gr.Column(visible=False, elem_id="account-tokens") as own:
            tokens = gr.Markdown()
            with gr.Row(elem_classes="q-inline"):
                label = gr.Textbox(label=texts.new_token, placeholder=texts.new_token_placeholder, max_lines=1,
                                   max_length=100, scale=1, min_width=140, elem_id="token-name")  # fmt: skip
                make = gr.Button(texts.make, scale=0, min_width=72, elem_id="token-make")
            secret = gr.Textbox(label=texts.token_once, visible=False, interactive=False, max_lines=1,
                                buttons=["copy"], elem_id="token-secret")  # fmt: skip
            with gr.Row(elem_classes="q-inline"):
                chosen = gr.Dropdown(label=texts.a_token, choices=[], scale=1, min_width=140, elem_id="token-chosen")
                revoke = gr.Button(texts.revoke, scale=0, min_width=72, elem_id="token-revoke")
    with gr.Accordion(texts.users, open=False, visible=False, elem_id="users") as people:
        users = gr.Markdown()
        name = gr.Textbox(label=texts.user_name, max_lines=1, max_length=64, elem_id="user-name")
        with gr.Row(elem_classes="q-inline"):
            role = gr.Dropdown([(texts.role(one), one) for one in ROLES], value="user", label=texts.user_role,
                               min_width=100, elem_id="user-role")  # fmt: skip
            password = gr.Textbox(label=texts.password, type="password", max_length=1_000, min_width=120,
                                  elem_id="user-password")  # fmt: skip
        with gr.Row(elem_classes="q-inline"):
            add = gr.Button(texts.add_user, min_width=110, elem_id="user-add")
            set_role = gr.Button(texts.set_role, min_width=110, elem_id="user-set-role")
            set_password = gr.Button(texts.set_password, min_width=110, elem_id="user-set-password")
            remove = gr.Button(texts.remove_user, min_width=110, elem_id="user-remove")
        with gr.Column(visible=False, elem_id="user-sure") as sure:
            sentence = gr.Markdown()
            with gr.Row(elem_classes="q-inline"):
                yes = gr.Button(texts.remove_user, variant="stop", min_width=110, elem_id="user-remove-sure")
                no = gr.Button(texts.keep_user, min_width=110)
    listing = [panel, who, own, tokens, chosen, people, users]

    async def shown(me: Visitor) -> tuple[Any, ...]:
        """What this visitor sees now, for `listing`."""
        if not token_needed and not await accounts.any():
            return gr.update(visible=False), "", gr.update(visible=False), "", gr.skip(), gr.update(visible=False), ""
        mine = await accounts.tokens(me)
        everybody = await accounts.users() if me.admin else []
        return (
            gr.update(visible=True),
            markup.rows([(me.name or texts.operator, texts.role(me.role))], ""),
            gr.update(visible=bool(me.name)),
            markup.rows([(token.name, last_used(token, texts)) for token in mine], texts.no_tokens),
            gr.update(choices=[(token.name, token.id) for token in mine], value=None),
            gr.update(visible=me.admin),
            markup.rows([(user.name, texts.role(user.role)) for user in everybody], texts.no_users),
        )

    async def show(request: gr.Request) -> tuple[Any, ...]:
        try:
            return await shown(visitor(request))
        except QuartetError:  # the database is out of reach for a moment
            return (gr.skip(),) * len(listing)

    async def make_token(typed: str | None, request: gr.Request) -> tuple[Any, ...]:
        me = visitor(request)
        try:
            _, made = await accounts.add_token(me, typed or "")
            return "", gr.update(value=made, visible=True), *await shown(me)
        except QuartetError as error:
            say_error(error, texts)
            return (gr.skip(),) * (2 + len(listing))

    async def revoke_token(token_id: str | None, request: gr.Request) -> tuple[Any, ...]:
        me = visitor(request)
        try:
            if token_id:
                await accounts.remove_token(me, token_id)
            return gr.update(value="", visible=False), *await shown(me)
        except QuartetError as error:
            say_error(error, texts)
            return (gr.skip(),) * (1 + len(listing))

    def for_admins(act: Any) -> Any:
        """What a button does with the fields of an account. The password's field is empty after it."""

        async def done(typed: str | None, role: str | None, password: str | None, request: gr.Request) -> Any:
            if not is_admin(request, texts):
                return (gr.skip(),) * (2 + len(listing))
            try:
                await act(typed or "", role or "", password or "")
                return "", gr.update(visible=False), *await shown(visitor(request))
            except QuartetError as error:
                say_error(error, texts)
                return (gr.skip(),) * (2 + len(listing))

        return done

    async def ask(typed: str | None, request: gr.Request) -> tuple[Any, Any]:
        if not is_admin(request, texts) or not typed:
            return gr.skip(), gr.skip()
        return gr.update(visible=True), markup.escape(texts.remove_user_sure.format(name=typed))

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    demo.load(show, None, listing, queue=False, **quiet)
    gr.on([make.click, label.submit], make_token, label, [label, secret, *listing], **quiet)
    revoke.click(revoke_token, chosen, [secret, *listing], **quiet)
    fields, after = [name, role, password], [password, sure, *listing]
    add.click(for_admins(accounts.add_user), fields, after, **quiet)
    set_role.click(for_admins(lambda name, role, _: accounts.change_user(name, role, None)), fields, after, **quiet)
    set_password.click(for_admins(lambda name, _, new: accounts.change_user(name, None, new)), fields, after, **quiet)
    remove.click(ask, name, [sure, sentence], **quiet)
    yes.click(for_admins(lambda name, *_: accounts.remove_user(name)), fields, after, **quiet)
    no.click(lambda: gr.update(visible=False), None, sure, queue=False, **quiet)


def last_used(token: ApiToken, texts: Texts) -> str:
    """When a token was used, to the minute, in UTC."""
    when = token.last_used_at
    return texts.used.format(when=f"{when[:10]} {when[11:16]}") if when else texts.never_used
