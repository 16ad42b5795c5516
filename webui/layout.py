"""The page in one language: header, model panel, two tabs, and the timer that keeps them true to the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from webui import chat_tab, langchain_tab, model_panel
from webui.account_panel import build_account_panel
from webui.chat_tab import build_chat_tab
from webui.conversations import Conversations
from webui.dialogue import conversation_key
from webui.langchain_tab import build_langchain_tab
from webui.model_panel import build_model_panel
from webui.sampling import build_sampling
from webui.texts import Texts
from webui.visitor import visitor

if TYPE_CHECKING:
    from accounts.accounts import Accounts
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService
    from webui.page import PageSettings

DIALOGUES = ("chat", "langchain")


def build_page(
    demo: gr.Blocks,
    texts: Texts,
    models: ModelManager,
    knowledge: KnowledgeService,
    chat: ChatService,
    conversations: Conversations,
    accounts: Accounts,
    settings: PageSettings,
) -> None:
    """Put the page in this language into the Blocks that are open now."""
    gr.Navbar(visible=False)
    with gr.Row(elem_id="header"):
        gr.Markdown(f"# {texts.title}\n{texts.tagline}", elem_id="brand")
        now = gr.Markdown(model_panel.pill(models.status, texts), elem_id="now")
        gr.Button(texts.other_language, link=texts.other_page, link_target="_self", size="sm", scale=0, min_width=72,
                  elem_id="language")  # fmt: skip
    with gr.Row(elem_id="body"):
        with gr.Column(scale=0, min_width=300, elem_id="panel"):
            panel = build_model_panel(texts, models)
            parameters = build_sampling(texts)
            build_account_panel(texts, demo, accounts, settings.token_needed)
        with gr.Column(scale=1, min_width=320, elem_id="stage"), gr.Tabs(elem_id="tabs"):
            with gr.Tab(texts.chat_tab, id="chat", elem_id="chat-tab"):
                chatting = build_chat_tab(texts, chat, conversations, parameters)
            with gr.Tab(texts.langchain_tab, id="langchain", elem_id="langchain-tab"):
                documents = build_langchain_tab(
                    texts, demo, knowledge, chat, conversations, parameters, settings.upload_folder
                )
    shown = gr.State("")

    async def refresh(seen: str, request: gr.Request) -> tuple[Any, ...]:
        # What a page shows already is not sent again: a tick without news costs a few hundred bytes.
        admin = visitor(request).admin
        status, log = models.status, await models.log_tail() if admin else ()
        state = repr((status, log, admin))
        if state == seen:
            return (gr.skip(),) * len(following)
        return (
            state,
            model_panel.pill(status, texts),
            *model_panel.follow(status, log, texts),
            gr.update(visible=admin),
            *chat_tab.follow(status, texts, admin),
            langchain_tab.follow(status, texts),
        )

    following = [
        shown, now, panel.status, panel.log, panel.load, panel.unload, panel.timer, panel.controls,
        chatting.notice, chatting.dialogue.window, documents.mode,
    ]  # fmt: skip
    light: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    demo.load(refresh, shown, following, **light)
    demo.load(panel.tell_memory, panel.path, panel.memory, **light)
    panel.timer.tick(refresh, shown, following, **light)
    chatting.load_starter.click(
        model_panel.starter_loader(models, texts), None, [panel.status, panel.timer], concurrency_id="models",
        show_progress="hidden", api_visibility="private",
    )  # fmt: skip

    async def left(request: gr.Request) -> None:
        for name in DIALOGUES:
            conversations.forget(conversation_key(request, name))

    demo.unload(left)
