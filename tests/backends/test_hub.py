"""From what was typed to a folder: local folders as they are, hub ids fetched once from hubs on 127.0.0.1, or a no."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backends.errors import HubUnreachable, ModelUnusable
from backends.hub import is_hub_id, resolve
from backends.types import Progress
from tests.backends.loopback_hub import loopback_hub

NOWHERE = "http://127.0.0.1:9"
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"s" * 3_000_000,
    "pytorch_model.bin": b"b" * 5,
    "modeling_evil.py": b"import os",
    "consolidated.00.pth": b"p",
    "model.gguf": b"g",
    "onnx/model.onnx": b"o",
    "README.md": b"# read me",
}
OLD_FILES = {"config.json": b"{}", "pytorch_model.bin": b"b" * 50, "tokenizer.model": b"t", "qwen.tiktoken": b"q"}


class Fetcher:
    """resolve() with caches in a folder of the test and hubs where the test wants them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reported: list[Progress] = []

    async def __call__(self, asked: str, hugging_face: str = NOWHERE, modelscope: str = NOWHERE) -> Path:
        environment = {
            "HF_ENDPOINT": hugging_face,
            "MODELSCOPE_ENDPOINT": modelscope,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_CACHE": str(self.folder / "hf" / "hub"),
            "MODELSCOPE_CACHE": str(self.folder / "ms"),
            "MODELSCOPE_HOME": str(self.folder / "ms-home"),
        }
        log_file = self.folder / "download.log"
        return await resolve(asked, self.reported.append, log_file=log_file, environment=environment)


@pytest.fixture
def fetch(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


async def test_a_local_folder_is_taken_as_it_is(fetch: Fetcher, tmp_path: Path) -> None:
    assert await fetch(str(tmp_path)) == tmp_path
    assert fetch.reported == []


async def test_a_model_is_fetched_from_hugging_face_without_code_and_only_once(fetch: Fetcher) -> None:
    with loopback_hub({"Qwen/Tiny": FILES}) as hub:
        folder = await fetch("Qwen/Tiny", hub.url)
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
        assert hub.taken() == {"config.json", "model.safetensors", "tokenizer.json"}
        asked = len(hub.paths)
        assert await fetch("Qwen/Tiny", hub.url) == folder
        assert len(hub.paths) == asked
    assert await fetch("Qwen/Tiny") == folder
    downloads = [progress for progress in fetch.reported if progress.stage == "downloading"]
    assert downloads
    assert all(progress.total == 3_000_025 for progress in downloads)


async def test_without_safetensors_the_older_weights_are_fetched(fetch: Fetcher) -> None:
    with loopback_hub({"Qwen/Old": OLD_FILES}) as hub:
        folder = await fetch("Qwen/Old", hub.url)
    assert sorted(path.name for path in folder.iterdir()) == sorted(OLD_FILES)
    assert await fetch("Qwen/Old") == folder


async def test_modelscope_is_asked_when_named(fetch: Fetcher) -> None:
    with loopback_hub({"Qwen/Tiny": FILES}) as hub:
        folder = await fetch("modelscope:Qwen/Tiny", modelscope=hub.url)
        assert hub.taken() == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert await fetch("modelscope:Qwen/Tiny") == folder


async def test_modelscope_steps_in_when_hugging_face_is_out_of_reach(fetch: Fetcher) -> None:
    with loopback_hub({"Qwen/Tiny": FILES}) as hub:
        folder = await fetch("Qwen/Tiny", modelscope=hub.url)
    assert (folder / "config.json").is_file()


async def test_with_no_hub_in_reach_the_answer_comes_soon_and_says_what_to_do(fetch: Fetcher) -> None:
    before = time.monotonic()
    with pytest.raises(HubUnreachable) as caught:
        await fetch("Qwen/Tiny")
    assert time.monotonic() - before < 20
    assert caught.value.message == (
        "Qwen/Tiny was asked for, but neither Hugging Face nor ModelScope answered: check the network, "
        "or give a local folder that holds the model."
    )


async def test_a_model_that_the_hub_does_not_have(fetch: Fetcher) -> None:
    with loopback_hub({}) as hub:
        with pytest.raises(ModelUnusable, match=r"Hugging Face has no model Qwen/Qwen3-0.6C .* check the spelling"):
            await fetch("Qwen/Qwen3-0.6C", hub.url)
        with pytest.raises(ModelUnusable, match=r"ModelScope has no model Qwen/Qwen3-0.6C"):
            await fetch("modelscope:Qwen/Qwen3-0.6C", modelscope=hub.url)


async def test_a_hub_with_troubles_of_its_own(fetch: Fetcher) -> None:
    with loopback_hub({"Qwen/Tiny": FILES}) as hub:
        hub.status = 503
        with pytest.raises(HubUnreachable, match="HTTP status 503"):
            await fetch("Qwen/Tiny", hub.url)


async def test_a_fetch_that_broke_off_is_not_taken_for_a_model(fetch: Fetcher, tmp_path: Path) -> None:
    with loopback_hub({"Qwen/Tiny": FILES}) as hub:
        folder = await fetch("Qwen/Tiny", hub.url)
        (folder / "model.safetensors").unlink()
        with pytest.raises(HubUnreachable):
            await fetch("Qwen/Tiny")
        assert (await fetch("Qwen/Tiny", hub.url) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "typed",
    ["/no/such/folder", "./models/qwen", "qwen", "a/b/c", "../x/y", "http://h/x", "org/na me", "-x/--trust", "a/b--c"],
)
async def test_what_is_neither_folder_nor_hub_id_is_said_so_without_any_process(fetch: Fetcher, typed: str) -> None:
    with pytest.raises(ModelUnusable, match="There is no folder"):
        await fetch(typed)
    assert fetch.reported == []


async def test_a_file_is_no_folder(fetch: Fetcher, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"")
    with pytest.raises(ModelUnusable, match="is a file; give the folder"):
        await fetch(str(weights))


def test_hub_ids() -> None:
    assert is_hub_id("Qwen/Qwen3-0.6B")
    assert is_hub_id("modelscope:ZhipuAI/glm-4-9b-chat-hf")
    assert is_hub_id("Qwen/Qwen-1_8B-Chat")
    assert not is_hub_id("Qwen/")
    assert not is_hub_id("tests/backends")
