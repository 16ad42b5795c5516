"""The embedding model on the page: which one is in service, and changing to another; knows no model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.errors import QuartetError
from webui import markup
from webui.notice import say_error
from webui.texts import Texts
from webui.visitor import is_admin, visitor

if TYPE_CHECKING:
    from rag.knowledge import KnowledgeService
    from rag.types import EmbeddingStatus, ModelChange

WORKING_SECONDS, QUIET_SECONDS = 1.0, 10.0


def build_embedding_panel(texts: Texts, demo: gr.Blocks, knowledge: KnowledgeService) -> None:
    """Put the panel into the Blocks that are open now."""
    with gr.Accordion(texts.embedding_model, open=False, elem_id="embedding") as panel:
        card = gr.Markdown(elem_id="embedding-status")
        with gr.Row(elem_classes="q-inline"):
            model = gr.Textbox(label=texts.next_embedding_model, placeholder=texts.embedding_placeholder, max_lines=1,
                               max_length=4_096, elem_id="embedding-path", scale=1, min_width=160)  # fmt: skip
            change = gr.Button(texts.change, elem_id="embedding-change", scale=0, min_width=80)
    timer = gr.Timer(QUIET_SECONDS)

    async def show() -> tuple[Any, Any]:
        try:
            return updates(await knowledge.embedding_status(), texts)
        except QuartetError:  # the documents are not open yet, or out of reach for a moment
            return gr.skip(), gr.skip()

    async def offered(request: gr.Request) -> Any:
        return gr.update(visible=visitor(request).admin)

    async def begin(typed: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        if not is_admin(request, texts):
            return gr.skip(), gr.skip(), gr.skip()
        try:
            return "", *updates(await knowledge.change_embedding_model(typed or ""), texts)
        except QuartetError as error:
            say_error(error, texts)
            return gr.skip(), gr.skip(), gr.skip()

    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    demo.load(offered, None, panel, **quick)
    demo.load(show, None, [card, timer], **quick)
    timer.tick(show, None, [card, timer], **quick)
    gr.on(  # queued, or what is wrong with the name could not be said
        [change.click, model.submit], begin, model, [model, card, timer], show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip


def updates(status: EmbeddingStatus, texts: Texts) -> tuple[str, Any]:
    """The card, and the timer: quick only while there is something to follow."""
    working = status.change is not None and status.change.state != "failed"
    return embedding_card(status, texts), gr.Timer(WORKING_SECONDS if working else QUIET_SECONDS)


def embedding_card(status: EmbeddingStatus, texts: Texts) -> str:
    """The model in service, what there is to know of it, and how far the next one is."""
    lines = [f'<div class="q-model">{markup.escape(status.model or texts.no_embedding_model)}</div>']
    if status.version:
        lines.append(f'<div class="q-quiet">{markup.escape(texts.version.format(version=status.version))}</div>')
    if status.note:
        lines.append(f'<div class="q-error">{markup.escape(status.note)}</div>')
    if status.change:
        lines.append(_change(status.change, texts))
    return f'<div class="q-card">{"".join(lines)}</div>'


def _change(change: ModelChange, texts: Texts) -> str:
    if change.state == "failed":
        sentence = texts.change_failed.format(model=change.model, why=change.error)
        return f'<div class="q-error">{markup.escape(sentence)}</div>'
    facts = [texts.changing.format(model=change.model)]
    if change.state == "building":
        facts.append(texts.of_passages.format(done=change.done, total=change.total))
    facts += markup.pace(change.passages_per_second, change.seconds_left, texts)
    part = change.done / change.total if change.total and change.state == "building" else None
    text = markup.escape(texts.separator.join(facts))
    return f'<div class="q-progress"><span>{text}</span>{markup.bar(part)}</div>'
