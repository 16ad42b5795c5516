"""The LangChain tab: knowledge bases, documents and what became of them, and a conversation that names its sources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.errors import Conflict, QuartetError
from webui import markup
from webui.conversations import Conversations
from webui.dialogue import Dialogue, build_dialogue
from webui.embedding_panel import build_embedding_panel
from webui.notice import say, say_error
from webui.texts import Texts
from webui.uploads import uploaded_file

if TYPE_CHECKING:
    from backends.models import ModelStatus
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService
    from rag.types import FileRecord

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
                (base, answer_mode),
            )  # fmt: skip
    timer = gr.Timer(QUIET_SECONDS)
    listing = [rows, chosen, timer]

    async def listed(name: str | None) -> tuple[Any, Any, Any]:
        records = await knowledge.files(name) if name else []
        return listing_updates(records, texts)

    async def opened() -> Any:
        try:
            bases = [found.name for found in await knowledge.list()]
        except QuartetError as error:  # the data folder is not open yet, or not at all
            say_error(error, texts)
            bases = []
        first = texts.default_base if texts.default_base in bases else (bases[0] if bases else None)
        return gr.update(choices=bases, value=first), *await listed(first)

    async def show(name: str | None) -> tuple[Any, Any, Any]:
        try:
            return await listed(name)
        except QuartetError:
            return listing_updates([], texts)  # deleted by somebody else meanwhile

    async def create_base(name: str | None) -> Any:
        try:
            made = await knowledge.create((name or "").strip())
        except QuartetError as error:
            say_error(error, texts)
            return (gr.skip(),) * 5
        bases = [found.name for found in await knowledge.list()]
        return "", gr.update(choices=bases, value=made.name), *await listed(made.name)

    async def take(paths: list[str] | None, name: str | None) -> Any:
        if not paths:
            say(texts.nothing_uploaded, texts)
            return (gr.skip(),) * 5
        if not name:
            name = await default_base(knowledge, texts)
        for path in paths:
            try:
                real = uploaded_file(path, upload_folder)
                await knowledge.add_file(name, real.name, real)
                real.unlink(missing_ok=True)
            except QuartetError as error:
                say_error(error, texts)
        bases = [found.name for found in await knowledge.list()]
        return None, gr.update(choices=bases, value=name), *await listed(name)

    def with_file(act: Callable[[str, str], Awaitable[object]]) -> Callable[..., Awaitable[tuple[Any, Any, Any]]]:
        """What a button does with the chosen file."""

        async def done(name: str | None, file_id: str | None) -> tuple[Any, Any, Any]:
            if not name or not file_id:
                return gr.skip(), gr.skip(), gr.skip()
            try:
                await act(name, file_id)
            except QuartetError as error:
                say_error(error, texts)
            return await show(name)

        return done

    async def ask_delete(name: str | None) -> tuple[Any, Any]:
        found = next((base for base in await knowledge.list() if base.name == name), None)
        if found is None:
            return gr.update(visible=False), gr.skip()
        sentence = texts.delete_base_sure.format(name=found.name, files=found.files)
        return gr.update(visible=True), markup.escape(sentence)

    async def delete_base(name: str | None) -> Any:
        try:
            if name:
                await knowledge.delete(name)
        except QuartetError as error:
            say_error(error, texts)
        return gr.update(visible=False), *await opened()

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


async def default_base(knowledge: KnowledgeService, texts: Texts) -> str:
    """The knowledge base for whoever made none: created at the first upload."""
    try:
        return (await knowledge.create(texts.default_base)).name
    except Conflict:
        return texts.default_base


def follow(status: ModelStatus, texts: Texts) -> Any:
    """Update of the line that says that answers are quotations, shown while no language model is loaded."""
    return gr.update(visible=not status.name, value=f'<div class="q-mode-text">{markup.escape(texts.quote_mode)}</div>')
