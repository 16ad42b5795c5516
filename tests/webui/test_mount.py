"""The page as it is mounted: each of its locks by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.routing import Mount

from accounts.accounts import Accounts
from backends.models import EngineSettings, ModelManager
from rag.chain import ChatService
from rag.knowledge import KnowledgeService
from webui.door import PageDoor
from webui.mount import mount
from webui.page import PageSettings
from webui.uploads import GuardedBlocks


@pytest.fixture
async def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GuardedBlocks:
    # A coroutine, because outside of an event loop Gradio makes loops that it does not close.
    settings = PageSettings(tmp_path)
    settings.upload_folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(settings.upload_folder))
    models = ModelManager(EngineSettings(data_dir=tmp_path))
    knowledge = KnowledgeService(tmp_path)
    app = FastAPI()
    mount(app, models, knowledge, ChatService(models, knowledge, lambda: None), Accounts(tmp_path), settings)
    mounted = app.routes[-1]
    assert isinstance(mounted, Mount)
    assert isinstance(mounted.app, PageDoor)
    blocks: GuardedBlocks = mounted.app._app.get_blocks()  # type: ignore[attr-defined]
    return blocks


def _vectorize(demo: GuardedBlocks) -> Any:
    return next(fn for fn in demo.fns.values() if any(isinstance(block, gr.File) for block in fn.inputs))


def test_gradio_believes_that_it_was_launched(demo: GuardedBlocks) -> None:
    assert demo.has_launched is True


def test_no_folder_is_open_and_those_that_matter_are_blocked(demo: GuardedBlocks, tmp_path: Path) -> None:
    assert demo.allowed_paths == []
    assert {"/etc", "/proc", "/usr", str(Path.cwd())} <= set(demo.blocked_paths)
    assert not any((tmp_path / "uploads").is_relative_to(path) for path in demo.blocked_paths)


async def test_an_event_with_a_foreign_file_ends_before_gradio_looks_at_it(demo: GuardedBlocks) -> None:
    vectorize = _vectorize(demo)
    foreign = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(gr.Error, match="not uploaded here"):
        await demo.preprocess_data(vectorize, [[foreign], "default"], None)


async def test_an_event_with_an_uploaded_file_gets_it(demo: GuardedBlocks, tmp_path: Path) -> None:
    upload = tmp_path / "uploads" / "0a" / "notes.txt"
    upload.parent.mkdir()
    upload.write_text("notes")
    own = {"path": str(upload), "meta": {"_type": "gradio.FileData"}}
    # Outside of a request no event runs in Gradio's context, so its own check does not look; ours does.
    paths, base = await demo.preprocess_data(_vectorize(demo), [[own], None], None)
    assert [str(path) for path in paths] == [str(upload)]
    assert base is None


def test_the_queue_is_bounded_and_cannot_be_passed_by(demo: GuardedBlocks) -> None:
    assert demo.api_open is False
    assert demo._queue.max_size == 64
    assert demo.state_session_capacity == 500
    answering = [fn for fn in demo.fns.values() if fn.concurrency_id == "chat"]
    assert len(answering) == 8  # send and retry, in two tabs, in two languages
    assert all(fn.queue is not False and fn.types_generator for fn in answering)
    assert all(fn.queue is not False for fn in demo.fns.values() if fn.concurrency_id in ("knowledge", "models"))


def test_both_pages_have_the_same_parts(demo: GuardedBlocks) -> None:
    english = {block.elem_id for block in demo.blocks.values() if block.page == "" and block.elem_id}
    chinese = {block.elem_id for block in demo.blocks.values() if block.page == "zh" and block.elem_id}
    assert english == chinese
    assert {"upload", "vectorize", "files", "base", "chat-window", "langchain-window", "model-path"} <= english
