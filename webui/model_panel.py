"""The model panel: what is in service, how far a load is, and loading another model; knows no engine."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from backends.catalog import CATALOG, STARTER
from backends.errors import QuartetError
from backends.hardware import MemoryNeed
from backends.models import ModelSpec
from webui import markup
from webui.notice import say, say_error
from webui.texts import Texts
from webui.visitor import is_admin, visitor

if TYPE_CHECKING:
    from backends.models import ModelManager, ModelStatus

log = logging.getLogger(__name__)

MODEL_TYPES = ("qwen", "llama", "chatglm", "baichuan")
BACKENDS = ("auto", "transformers", "vllm", "openai")
GIB = 1024**3
BUSY_SECONDS, QUIET_SECONDS = 0.7, 3.0


@dataclass(frozen=True)
class ModelPanel:
    """The components that follow the state of the model: see `follow`."""

    status: gr.Markdown
    controls: gr.Column
    path: gr.Textbox
    memory: gr.Markdown
    tell_memory: Callable[[str | None, gr.Request], Awaitable[str]]
    log: gr.Textbox
    load: gr.Button
    unload: gr.Button
    timer: gr.Timer


def status_card(status: ModelStatus, texts: Texts) -> str:
    """The state in words: the model in service, what is being loaded and how far, and the error of the last load."""
    lines: list[str] = []
    if status.name:
        facts = [status.family.capitalize(), status.backend]
        if status.context_length:
            facts.append(texts.context.format(n=f"{status.context_length:,}"))
        if status.in_flight:
            facts.append(texts.in_flight.format(n=status.in_flight))
        if status.waiting:
            facts.append(texts.waiting.format(n=status.waiting))
        about = " · ".join(fact for fact in facts if fact)
        # "failed" beside a model that serves: another one was to be loaded; the error says why it was not.
        if status.serving:
            kind, word = "ready", texts.state_asleep if status.state == "asleep" else texts.state_ready
        else:
            kind, word = "wait", texts.state_attention if status.state == "failed" else texts.state_restarting
        lines.append(_line(kind, word, status.name, about))
    elif status.state != "loading":
        lines.append(_line("empty", texts.state_empty, "", texts.state_empty_note))
    if status.state == "loading":
        meanwhile = texts.in_service_meanwhile.format(name=status.name) if status.name else ""
        lines.append(_line("wait", texts.state_loading, status.loading, meanwhile))
    if status.progress is not None and status.state in ("loading", "restarting"):
        lines.append(markup.progress(status.progress, texts))
    if status.error:
        lines.append(f'<div class="q-error">{markup.escape(status.error)}</div>')
    return f'<div class="q-card">{"".join(lines)}</div>'


def pill(status: ModelStatus, texts: Texts) -> str:
    """The state in a few words, for the header."""
    if status.state == "loading":
        kind, text = "wait", f"{texts.state_loading} {_short(status.loading)}"
    elif status.state == "restarting":
        kind, text = "wait", f"{texts.state_restarting} {_short(status.name)}"
    else:
        kind, text = ("ready", _short(status.name)) if status.name else ("empty", texts.state_empty)
    return f'<span class="q-state q-state-{kind}">{markup.escape(text)}</span>'


def _short(name: str) -> str:
    # The last part of a hub id or folder is what tells models apart.
    return name.rstrip("/").rsplit("/", 1)[-1][:40]


def _line(kind: str, word: str, name: str, about: str) -> str:
    name_html = f'<div class="q-model">{markup.escape(name)}</div>' if name else ""
    about_html = f'<div class="q-quiet">{markup.escape(about)}</div>' if about else ""
    return f'<div class="q-state q-state-{kind}">{markup.escape(word)}</div>{name_html}{about_html}'


def memory_line(need: int | MemoryNeed | None, free: int, texts: Texts) -> str:
    """What a model needs, with its parts where its files are here, beside what is free, in bytes; None is a need that
    is not known before the download."""
    if need is None:
        return f'<div class="q-quiet">{markup.escape(texts.memory_free.format(free=free / GIB))}</div>'
    total = need.total if isinstance(need, MemoryNeed) else need
    fits = total <= free
    text = (texts.memory if fits else texts.memory_short).format(need=total / GIB, free=free / GIB)
    if isinstance(need, MemoryNeed):
        parts = (part / GIB for part in (need.weights, need.kv_cache, need.overhead))
        text += " · " + texts.memory_parts.format(*parts)
    return f'<div class="{"q-quiet" if fits else "q-error"}">{markup.escape(text)}</div>'


async def memory_of(models: ModelManager, model_path: str) -> tuple[int | MemoryNeed | None, int]:
    """What a model of the menu or a folder of this machine needs (None for anything else), and what is free for it; in
    bytes."""
    for entry in CATALOG:
        if entry.hub_id == model_path:
            return int(entry.memory_gib * GIB), await models.memory_free()
    try:
        _, room = await models.inspect(model_path)
    except (QuartetError, OSError, ValueError):  # loading it says what is wrong
        return None, await models.memory_free()
    return room.need, room.free


def build_model_panel(texts: Texts, models: ModelManager) -> ModelPanel:
    """The panel and its own events; whoever builds the page wires the timer to `follow`."""
    status = gr.Markdown(status_card(models.status, texts), elem_id="model-status")
    with gr.Column(elem_id="model-controls") as controls:
        menu = gr.Dropdown(
            [(f"{entry.label} · {entry.memory_gib:.0f} GiB", entry.hub_id) for entry in CATALOG], value=STARTER.hub_id,
            label=texts.menu, elem_id="model-menu",
        )  # fmt: skip
        path = gr.Textbox(
            STARTER.hub_id, label=texts.model_path, placeholder=texts.model_path_placeholder, max_lines=1,
            max_length=4_096, elem_id="model-path",
        )  # fmt: skip
        memory = gr.Markdown(elem_id="model-memory")
        with gr.Accordion(texts.options, open=False, elem_id="model-options"):
            kind = gr.Dropdown([(texts.recognised, ""), *((k, k) for k in MODEL_TYPES)], value="",
                               label=texts.model_type, info=texts.model_type_info)  # fmt: skip
            backend = gr.Dropdown(list(BACKENDS), value="auto", label=texts.backend)
        with gr.Row():
            load = gr.Button(texts.load, variant="primary", min_width=80, elem_id="model-load")
            unload = gr.Button(texts.unload, min_width=80, interactive=False, elem_id="model-unload")
        with gr.Accordion(texts.log, open=False, elem_id="model-log"):
            engine_log = gr.Textbox(show_label=False, label=texts.log, lines=6, max_lines=14, interactive=False,
                                    placeholder=texts.no_log, elem_classes="q-log")  # fmt: skip
    timer = gr.Timer(QUIET_SECONDS)

    async def tell_memory(model_path: str | None, request: gr.Request) -> str:
        if not visitor(request).admin:  # what folders there are is not for everybody
            return ""
        need, free = await memory_of(models, (model_path or "").strip())
        return memory_line(need, free, texts)

    async def choose(hub_id: str | None, request: gr.Request) -> tuple[Any, Any]:
        return (hub_id, await tell_memory(hub_id, request)) if hub_id else (gr.skip(), gr.skip())

    async def typed(model_path: str | None, request: gr.Request) -> tuple[Any, str]:
        chosen = next((entry.hub_id for entry in CATALOG if entry.hub_id == model_path), None)
        return gr.update(value=chosen), await tell_memory(model_path, request)

    async def start(
        model_path: str | None, model_type: str | None, backend_name: str | None, request: gr.Request
    ) -> tuple[str, Any]:
        if not is_admin(request, texts):
            return gr.skip(), gr.skip()
        named = (model_path or "").strip()
        if not named and backend_name != "openai":  # a server elsewhere has one of its own
            say(texts.no_path, texts)
            return gr.skip(), gr.skip()
        return _start(models, ModelSpec(named, model_type or "", backend_name or "auto"), texts)

    async def stop(request: gr.Request) -> tuple[str, Any]:
        if not is_admin(request, texts):
            return gr.skip(), gr.skip()
        try:
            await models.unload()
        except QuartetError as error:
            say_error(error, texts)
        return status_card(models.status, texts), gr.Timer(BUSY_SECONDS)

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    path.blur(typed, path, [menu, memory], **quick)
    menu.input(choose, menu, [path, memory], **quick)
    load.click(start, [path, kind, backend], [status, timer], concurrency_id="models", concurrency_limit=4, **quick)
    path.submit(start, [path, kind, backend], [status, timer], concurrency_id="models", **quick)
    unload.click(stop, None, [status, timer], concurrency_id="models", **quick)
    return ModelPanel(status, controls, path, memory, tell_memory, engine_log, load, unload, timer)


def _start(models: ModelManager, spec: ModelSpec, texts: Texts) -> tuple[str, Any]:
    try:
        models.start_loading(spec)
    except QuartetError as error:
        say_error(error, texts)
    return status_card(models.status, texts), gr.Timer(BUSY_SECONDS)


def starter_loader(models: ModelManager, texts: Texts) -> Callable[[gr.Request], Any]:
    """The handler of the button that loads the starter model; outputs are the panel's status and timer."""

    async def load_starter(request: gr.Request) -> tuple[str, Any]:
        if not is_admin(request, texts):
            return gr.skip(), gr.skip()
        return _start(models, ModelSpec(STARTER.hub_id), texts)

    return load_starter


def follow(status: ModelStatus, log: Sequence[str], texts: Texts) -> Sequence[Any]:
    """Updates of status, log, Load, Unload and the timer's pace for this state."""
    busy = status.state in ("loading", "restarting")
    return (
        status_card(status, texts),
        "\n".join(log),
        gr.update(interactive=status.state != "loading"),
        gr.update(interactive=bool(status.name)),
        gr.Timer(BUSY_SECONDS if busy or status.in_flight else QUIET_SECONDS),
    )
