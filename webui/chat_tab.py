"""The Chat tab: a conversation with the model in service, and what to do while there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.catalog import STARTER
from webui.conversations import Conversations
from webui.dialogue import Dialogue, build_dialogue
from webui.markup import escape
from webui.texts import Texts

if TYPE_CHECKING:
    from backends.models import ModelStatus
    from rag.chain import ChatService


@dataclass(frozen=True)
class ChatTab:
    """The components that follow the state of the model: see `follow`."""

    notice: gr.Row
    load_starter: gr.Button
    dialogue: Dialogue


def build_chat_tab(
    texts: Texts, chat: ChatService, conversations: Conversations, parameters: list[gr.components.Component]
) -> ChatTab:
    with gr.Row(visible=False, equal_height=True, elem_id="chat-notice") as notice:
        gr.Markdown(texts.no_model_notice.format(starter=STARTER.label, gib=STARTER.memory_gib))
        load_starter = gr.Button(
            texts.load_starter.format(starter=STARTER.label), variant="primary", size="md", scale=0, min_width=220,
            elem_id="load-starter",
        )  # fmt: skip
    dialogue = build_dialogue(
        texts, "chat", chat, conversations, parameters, texts.chat_placeholder, texts.chat_no_model
    )
    return ChatTab(notice, load_starter, dialogue)


def follow(status: ModelStatus, texts: Texts, admin: bool) -> tuple[Any, Any]:
    """Updates of the notice, which offers to load a model, and of the window's greeting for this state of the model."""
    if status.name:
        return gr.update(visible=False), gr.update(placeholder=texts.chat_empty.format(model=escape(status.name)))
    waiting = status.state in ("loading", "restarting")
    return gr.update(visible=admin and not waiting), gr.update(placeholder=texts.chat_no_model)
