"""The LangChain tab: knowledge bases, documents and what became of them, and a conversation that names its sources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.errors import Conflict, QuartetError
from rag.names import file_label
from rag.owners import KnowledgeOf, key_of, name_of
from webui import markup
from webui.conversations import Conversations
from webui.dialogue import Dialogue, build_dialogue
from webui.embedding_panel import build_embedding_panel
from webui.notice import say, say_error
from webui.texts import Texts
from webui.uploads import uploaded_file
from webui.visitor import visitor

if TYPE_CHECKING:
    from backends.models import ModelStatus
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService
    from rag.types import FileRecord, KnowledgeBase

SUFFIXES = (".txt", ".md", ".docx", ".pdf")
WORKING_SECONDS, QUIET_SECONDS = 0.7, 4.0


@dataclass(frozen=True)
class LangChainTab:
    """The components that are filled when the page is opened, and the line that follows the model's state."""

    mode: gr.Markdown
    dialogue: Dialogue


def build_langchain_tab(
    texts: Texts,
    demo: gr.Blocks,
    knowledge: KnowledgeService,
    chat: ChatService,
    conversations: Conversations,
    parameters: list[gr.components.Component],
    upload_folder: Path,
) -> LangChainTab:
    def seen_by(request: gr.Request) -> KnowledgeOf:
        who = visitor(request)
        return KnowledgeOf(knowledge, who.name, who.admin)

    async def allowed(request: gr.Request, key: str) -> str:
        return await seen_by(request).checked(key)

    with gr.Row(elem_classes="q-columns", equal_height=False):
        with gr.Column(scale=0, min_width=340, elem_classes="q-documents"):
            base = gr.Dropdown(
                [], label=texts.base_label, info=texts.base_info, value=None, elem_id="base", allow_custom_value=False
            )
            answer_mode = gr.Radio(
                [(texts.mode_both, "both"), (texts.mode_retrieve, "retrieve"), (texts.mode_model, "model")],
                label=texts.answer_mode, value="both", elem_id="answer-mode",
            )  # fmt: skip
            upload = gr.File(
                label=texts.upload_label, file_count="multiple", file_types=list(SUFFIXES), type="filepath",
                height=150, elem_id="upload",
            )  # fmt: skip
            vectorize = gr.Button(texts.vectorize, variant="primary", elem_id="vectorize")
            rows = gr.Markdown(elem_id="files")
            with gr.Accordion(texts.manage, open=False, elem_id="manage"):
                with gr.Row(elem_classes="q-inline"):
                    new_name = gr.Textbox(label=texts.new_base, placeholder=texts.new_base_placeholder, max_lines=1,
                                          max_length=200, elem_id="new-base", scale=1, min_width=160)  # fmt: skip
                    create = gr.Button(texts.create, elem_id="create-base", scale=0, min_width=80)
                chosen = gr.Dropdown([], label=texts.remove_file, value=None, elem_id="chosen-file")
                with gr.Row(elem_classes="q-buttons"):
                    remove = gr.Button(texts.remove, elem_id="remove-file", size="sm", min_width=60)
                    stop = gr.Button(texts.stop_reading, elem_id="stop-file", size="sm", min_width=60)
                    again = gr.Button(texts.read_again, elem_id="reindex-file", size="sm", min_width=60)
                drop = gr.Button(texts.delete_base, variant="stop", size="sm", elem_id="delete-base")
                with gr.Column(visible=False, elem_id="delete-sure") as sure:
                    question = gr.Markdown(elem_classes="q-sure")
                    with gr.Row():
                        yes = gr.Button(texts.delete_yes, variant="stop", size="sm", elem_id="delete-yes", min_width=60)
                        no = gr.Button(texts.cancel, size="sm", min_width=60)
            build_embedding_panel(texts, demo, knowledge)
        with gr.Column(scale=1, min_width=360, elem_classes="q-talk"):
            mode = gr.Markdown(visible=False, elem_classes="q-mode", elem_id="quote-mode")
            dialogue = build_dialogue(
                texts, "langchain", chat, conversations, parameters, texts.ask_placeholder, texts.langchain_empty,
                (base, answer_mode), allowed,
            )  # fmt: skip
    timer = gr.Timer(QUIET_SECONDS)
    listing = [rows, chosen, timer]

    async def choices(request: gr.Request) -> list[tuple[str, str]]:
        """What is shown of each knowledge base, and its key; those of the visitor first."""
        me = visitor(request).name
        bases = sorted(await seen_by(request).list(), key=lambda base: (base.owner != me, base.owner))
        return [(base_label(base, me, texts), key_of(base.owner, base.name)) for base in bases]

    async def listed(request: gr.Request, key: str | None) -> tuple[Any, Any, Any]:
        records = await knowledge.files(await allowed(request, key)) if key else []
        return listing_updates(records, texts)

    async def opened(request: gr.Request) -> Any:
        try:
            bases = await choices(request)
        except QuartetError as error:  # the data folder is not open yet, or not at all
            say_error(error, texts)
            bases = []
        keys = [key for _, key in bases]
        first = next((key for key in keys if name_of(key) == texts.default_base), keys[0] if keys else None)
        return gr.update(choices=bases, value=first), *await listed(request, first)

    async def show(key: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
        try:
            return await listed(request, key)
        except QuartetError:
            return listing_updates([], texts)  # deleted by somebody else meanwhile

    async def create_base(name: str | None, request: gr.Request) -> Any:
        try:
            made = await seen_by(request).create((name or "").strip())
        except QuartetError as error:
            say_error(error, texts)
            return (gr.skip(),) * 5
        key = key_of(made.owner, made.name)
        return "", gr.update(choices=await choices(request), value=key), *await listed(request, key)

    async def take(paths: list[str] | None, key: str | None, request: gr.Request) -> Any:
        if not paths:
            say(texts.nothing_uploaded, texts)
            return (gr.skip(),) * 5
        try:
            bases = seen_by(request)
            key = await bases.checked(key, change=True) if key else await default_base(bases, texts)
        except QuartetError as error:
            say_error(error, texts)
            return (gr.skip(),) * 5
        for path in paths:
            try:
                real = uploaded_file(path, upload_folder)
                record = await knowledge.add_file(key, real.name, real)
                if record.name != file_label(real.name):
                    say(texts.same_content.format(name=real.name, known=record.name), texts)
                real.unlink(missing_ok=True)
            except QuartetError as error:
                say_error(error, texts)
        return None, gr.update(choices=await choices(request), value=key), *await listed(request, key)

    def with_file(act: Callable[[str, str], Awaitable[object]]) -> Callable[..., Awaitable[tuple[Any, Any, Any]]]:
        """What a button does with the chosen file."""

        async def done(key: str | None, file_id: str | None, request: gr.Request) -> tuple[Any, Any, Any]:
            if not key or not file_id:
                return gr.skip(), gr.skip(), gr.skip()
            try:
                await act(await seen_by(request).checked(key, change=True), file_id)
            except QuartetError as error:
                say_error(error, texts)
            return await show(key, request)

        return done

    async def ask_delete(key: str | None, request: gr.Request) -> tuple[Any, Any]:
        bases = await seen_by(request).list()
        found = next((base for base in bases if key_of(base.owner, base.name) == key), None)
        if found is None:
            return gr.update(visible=False), gr.skip()
        sentence = texts.delete_base_sure.format(name=found.name, files=found.files)
        return gr.update(visible=True), markup.escape(sentence)

    async def delete_base(key: str | None, request: gr.Request) -> Any:
        try:
            if key:
                await knowledge.delete(await seen_by(request).checked(key, change=True))
        except QuartetError as error:
            say_error(error, texts)
        return gr.update(visible=False), *await opened(request)

    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    work: dict[str, Any] = {
        "concurrency_id": "knowledge", "concurrency_limit": 2, "show_progress": "minimal", "api_visibility": "private",
    }  # fmt: skip
    # Queued, or what goes wrong could not be said; waits for no upload.
    at_once: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    demo.load(opened, None, [base, *listing], **quick)
    base.change(show, base, listing, **quick)
    timer.tick(show, base, listing, **quick)
    gr.on([create.click, new_name.submit], create_base, new_name, [new_name, base, *listing], **work)
    vectorize.click(take, [upload, base], [upload, base, *listing], **work)
    remove.click(with_file(knowledge.delete_file), [base, chosen], listing, **work)
    stop.click(with_file(knowledge.cancel), [base, chosen], listing, **at_once)
    again.click(with_file(knowledge.reindex), [base, chosen], listing, **at_once)
    drop.click(ask_delete, base, [sure, question], **quick)
    yes.click(delete_base, base, [sure, base, *listing], **work)
    no.click(lambda: gr.update(visible=False), None, sure, **quick)
    return LangChainTab(mode, dialogue)


def listing_updates(records: Sequence[FileRecord], texts: Texts) -> tuple[Any, Any, Any]:
    """Updates of the rows, of the choice of a file to remove, and of the timer: quick only while work is going on."""
    working = any(not record.finished for record in records)
    choices = [(record.name, record.id) for record in records]
    return (
        markup.files(records, texts),
        gr.update(choices=choices),
        gr.Timer(WORKING_SECONDS if working else QUIET_SECONDS),
    )


async def default_base(bases: KnowledgeOf, texts: Texts) -> str:
    """The key of the knowledge base for whoever made none: created at the first upload."""
    try:
        made = await bases.create(texts.default_base)
    except Conflict:
        return await bases.key(texts.default_base)
    return key_of(made.owner, made.name)


def base_label(base: KnowledgeBase, me: str, texts: Texts) -> str:
    """How a knowledge base is shown to a visitor: with whose it is, where that is not clear by itself."""
    if base.owner == me:
        return base.name
    return texts.owned.format(name=base.name, owner=base.owner or texts.everybody)


def follow(status: ModelStatus, texts: Texts) -> Any:
    """Update of the line that says that answers are quotations, shown while no language model is loaded."""
    return gr.update(visible=not status.name, value=f'<div class="q-mode-text">{markup.escape(texts.quote_mode)}</div>')
