"""What the panels show for a state of the services."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from backends.hardware import MemoryNeed
from backends.models import EngineSettings, ModelManager, ModelStatus
from backends.types import Progress
from rag.types import FileRecord
from tests import checkpoints
from webui import chat_tab, langchain_tab, model_panel
from webui.model_panel import GIB, memory_line, memory_of, pill, status_card
from webui.texts import CHINESE, ENGLISH

EMPTY = ModelStatus("empty", "", "quote", "", None, "", None, "", 0)
READY = ModelStatus("ready", "org/Qwen3-0.6B", "transformers", "qwen", 40_960, "", None, "", 2, True, 3)
ASLEEP = ModelStatus("asleep", "org/Qwen3-0.6B", "transformers", "qwen", 40_960, "", None, "", 0, True)
LOADING = ModelStatus(
    "loading", "org/Qwen3-0.6B", "transformers", "qwen", 40_960, "/models/<b>new", Progress("loading", 3, 4), "", 0
)
FAILED = ModelStatus("failed", "", "quote", "", None, "", None, "It holds no config.json: <choose> another.", 0)


def test_no_model() -> None:
    card = status_card(EMPTY, ENGLISH)
    assert "No model loaded" in card
    assert "quoting" in card
    assert "No model loaded" in pill(EMPTY, ENGLISH)


def test_a_model_in_service_with_its_facts() -> None:
    card = status_card(READY, ENGLISH)
    for fact in ("Ready", "Qwen3", "transformers", "40,960 tokens", "2 answering", "3 in line"):
        assert fact in card.replace("&#45;", "-").replace("&#46;", ".")
    assert "就绪" in status_card(READY, CHINESE)
    assert "Qwen3&#45;0&#46;6B" in pill(READY, ENGLISH)
    assert "org" not in pill(READY, ENGLISH)


def test_a_load_shows_what_how_far_and_who_answers_meanwhile() -> None:
    card = status_card(LOADING, ENGLISH)
    assert "/models/&#60;b&#62;new" in card
    assert 'value="75"' in card
    assert "75%" in card
    assert "keeps answering meanwhile" in card


def test_a_failed_load_gives_its_reason_as_text() -> None:
    card = status_card(FAILED, ENGLISH)
    assert "no config" in card
    assert "&#60;choose&#62;" in card


def test_a_lost_engine_needs_attention_and_a_failed_load_beside_one_that_serves_does_not() -> None:
    lost = ModelStatus("failed", "old", "vllm", "", None, "", None, "The engine was lost.", 0)
    assert "Needs attention" in status_card(lost, ENGLISH)
    goes_on = replace(lost, error="No such folder.", serving=True)
    assert "Ready" in status_card(goes_on, ENGLISH)
    assert "No such folder" in status_card(goes_on, ENGLISH).replace("&#46;", ".")


def test_an_engine_that_is_asleep_is_as_good_as_ready() -> None:
    assert "asleep until the next question" in status_card(ASLEEP, ENGLISH)
    assert "q-state-ready" in pill(ASLEEP, ENGLISH)
    assert chat_tab.follow(ASLEEP, ENGLISH, True)[0]["visible"] is False


def test_buttons_and_pace_follow_the_state() -> None:
    def followed(status: ModelStatus) -> tuple[bool, bool, float]:
        _, log, load, unload, timer = model_panel.follow(status, ["one", "two"], ENGLISH)
        assert log == "one\ntwo"
        return load["interactive"], unload["interactive"], timer.value

    assert followed(EMPTY) == (True, False, model_panel.QUIET_SECONDS)
    assert followed(READY) == (True, True, model_panel.BUSY_SECONDS)
    assert followed(LOADING) == (False, True, model_panel.BUSY_SECONDS)


def test_the_chat_tab_offers_the_starter_only_while_nothing_is_there_or_on_its_way() -> None:
    assert chat_tab.follow(EMPTY, ENGLISH, True)[0]["visible"] is True
    assert chat_tab.follow(EMPTY, ENGLISH, False)[0]["visible"] is False  # only admins load models
    assert chat_tab.follow(FAILED, ENGLISH, True)[0]["visible"] is True
    assert chat_tab.follow(READY, ENGLISH, True)[0]["visible"] is False
    first_load = ModelStatus("loading", "", "quote", "", None, "x", None, "", 0)
    assert chat_tab.follow(first_load, ENGLISH, True)[0]["visible"] is False


def test_quote_mode_is_labelled() -> None:
    assert langchain_tab.follow(EMPTY, ENGLISH)["visible"] is True
    assert "引用模式" in langchain_tab.follow(EMPTY, CHINESE)["value"]
    assert langchain_tab.follow(READY, ENGLISH)["visible"] is False


def test_the_rows_are_looked_at_often_only_while_something_happens() -> None:
    record = FileRecord("1", "a.md", "searchable", 1, None, 2, 1.0, "", "", "")
    working = FileRecord("2", "b.md", "embedding", 1, None, 1, 0.5, "", "", "")
    rows, chosen, timer = langchain_tab.listing_updates([record], ENGLISH)
    assert "searchable" in rows
    assert chosen["choices"] == [("a.md", "1")]
    assert timer.value == langchain_tab.QUIET_SECONDS
    assert langchain_tab.listing_updates([record, working], ENGLISH)[2].value == langchain_tab.WORKING_SECONDS
    assert langchain_tab.WORKING_SECONDS < 1


def test_memory_is_compared_before_anything_is_loaded() -> None:
    assert "needs about 2&#46;0 GiB" in memory_line(2 * GIB, 8 * GIB, ENGLISH)
    parts = memory_line(MemoryNeed(3 * GIB, GIB, GIB), 8 * GIB, ENGLISH).replace("&#46;", ".").replace("&#44;", ",")
    assert "needs about 5.0 GiB" in parts
    assert "weights 3.0, context 1.0, engine 1.0 GiB" in parts
    assert "q-error" in memory_line(9 * GIB, 8 * GIB, ENGLISH)
    assert "8&#46;0 GiB" in memory_line(None, 8 * GIB, CHINESE)


async def test_the_need_of_a_folder_is_what_loading_it_would_count(tmp_path: Path) -> None:
    folder = str(await asyncio.to_thread(checkpoints.untrained, "Qwen2ForCausalLM"))
    models, halved = (ModelManager(EngineSettings(tmp_path, precision=name)) for name in ("float32", "bfloat16"))
    need, free = await memory_of(models, folder)
    half, _ = await memory_of(halved, folder)
    assert isinstance(need, MemoryNeed)
    assert isinstance(half, MemoryNeed)
    assert need.weights == 2 * half.weights > 0
    assert free > 0
    assert (await memory_of(models, "baichuan-inc/Baichuan2-13B-Chat"))[0] == int(30.8 * GIB)
    for path in ("", "org/unknown", str(tmp_path), "a\0b", "/no/such"):
        assert (await memory_of(models, path))[0] is None
