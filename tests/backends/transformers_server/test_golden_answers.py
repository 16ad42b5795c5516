"""Over HTTP, temperature 0 gives exactly the text that the original code generated, for every reference checkpoint."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from backends.engines.transformers_server.service import Service
from backends.engines.transformers_server.web import create_app
from backends.families import prepare, recognise
from tests.backends.families.reference import FAMILIES, NAMES, golden
from tests.shared_data import requires_shared

TOKENS = 16


@requires_shared
@pytest.mark.parametrize("name", [name for name in NAMES if name != "baichuan-7b"])
async def test_a_chat_gets_the_text_of_the_original(name: str, tmp_path: Path) -> None:
    """Up to where the family stops, that is; baichuan-7b is a base model, whose original has no conversations."""
    service = Service(await asyncio.to_thread(prepare, recognise(FAMILIES / name), tmp_path, lambda _: None), "float32")
    service.run_in_background(lambda: None)
    transport, key = httpx.ASGITransport(create_app(service, "m", "key")), {"Authorization": "Bearer key"}
    chats = [case for case in golden(name)["cases"] if case["kind"] == "chat" and "params" not in case]
    chats = [case for case in chats if "greedy_ids" in case and not case.get("user_text_becomes_control_ids")]
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", headers=key) as client:
        async with asyncio.timeout(120):
            while (await client.get("/health")).status_code == 503:  # noqa: ASYNC110 - asked over HTTP
                await asyncio.sleep(0.05)
        for case in chats:
            body = {"messages": case["messages"], "temperature": 0, "max_tokens": TOKENS}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            text, whole = answer["choices"][0]["message"]["content"], case["greedy_decoded_skip_special"]
            ends = [place for place, token in enumerate(case["greedy_ids"]) if token in golden(name)["stop_ids"]]
            if ends:
                assert whole.startswith(text.rstrip("\ufffd")), case["id"]
                assert answer["usage"]["completion_tokens"] == ends[0] + 1
            else:
                assert text == whole, case["id"]
            assert answer["usage"]["prompt_tokens"] == len(case["prompt_ids"])
