"""One model from its folder to answers: loads in a thread, then turns chats into streams of text. Knows no HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import EngineFailed, InvalidRequest, ModelUnusable
from backends.types import Delta, Progress, Usage

if TYPE_CHECKING:
    from backends.engines.transformers_server.generation import Generator
    from backends.engines.transformers_server.request import Asked

# How long the process stays after the generation failed, so that every stream can end with its error.
_LAST_WORDS_SECONDS = 1.0


@dataclass(frozen=True)
class Loaded:
    """A model that is ready. `context_length` is what one request may fill, in tokens; `stop_ids` end an answer."""

    tokenizer: Any
    defaults: Any
    generator: Generator
    context_length: int
    stop_ids: tuple[int, ...]


class Service:
    """`progress` tells how far loading is, `failure` why it or the generation ended for good."""

    def __init__(self, folder: Path, precision: str) -> None:
        self.progress = Progress("starting transformers")
        self._folder, self._precision = folder, precision
        self._loaded: Loaded | None = None
        self._failure = ""

    @property
    def ready(self) -> bool:
        return self._loaded is not None

    @property
    def failure(self) -> str:
        return self._failure or (self._loaded.generator.failure if self._loaded else "")

    @property
    def loaded(self) -> Loaded:
        """Raises EngineFailed while there is no model."""
        if self._loaded is None:
            raise EngineFailed("The model is still being loaded; try again in a moment.")
        return self._loaded

    def run_in_background(self, on_end: Callable[[], None]) -> None:
        """Returns at once. `on_end` is called in a thread of its own when there is nothing more to serve with: loading
        failed, or the generation did and the streams had time to say so; `failure` has the reason."""

        def work() -> None:
            try:
                self._loaded = self._load()
            except ModelUnusable as error:
                self._failure = error.message
            # Whatever the library raises ends the process, with the reason in its log.
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                self._failure = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            else:
                self._loaded.generator.wait()
                self._failure = self._loaded.generator.failure
                time.sleep(_LAST_WORDS_SECONDS)
            on_end()

        threading.Thread(target=work, name="load", daemon=True).start()

    def _load(self) -> Loaded:
        from transformers.utils import logging

        from backends.engines.transformers_server import placement
        from backends.families import load_pretrained

        self.progress = Progress("loading weights")
        logging.set_tqdm_hook(self._watched)
        model, tokenizer = load_pretrained(self._folder, placement.dtype(self._folder, self._precision))
        logging.set_tqdm_hook(None)
        model.to(placement.device())
        self.progress = Progress("reserving memory")
        context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 4096)
        generator, fits = generator_for(model, context)
        defaults = model.generation_config
        return Loaded(tokenizer, defaults, generator, fits, _stop_ids(defaults))

    def _watched(self, factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The library's progress bar over the weights, told as progress too."""
        bar = factory(*args, **kwargs)
        update = bar.update

        def told(count: float = 1) -> Any:
            result = update(count)
            self.progress = Progress("loading weights", int(bar.n), int(bar.total or 0))
            return result

        bar.update = told
        return bar

    async def prompt(self, asked: Asked) -> list[int]:
        """The token ids of the conversation or text. Raises InvalidRequest when no room is left for an answer."""
        from backends.families import prompt_ids

        loaded = self.loaded
        # Long prompts take the tokenizer a while: the other streams go on meanwhile.
        if isinstance(asked.prompt, str):
            encoded = await asyncio.to_thread(loaded.tokenizer, asked.prompt)
            prompt = list(encoded["input_ids"])
        else:
            prompt = await asyncio.to_thread(prompt_ids, loaded.tokenizer, asked.prompt, asked.think)
        if len(prompt) >= loaded.context_length:
            what, remedy = ("text", "") if isinstance(asked.prompt, str) else ("conversation", " or start a new one")
            raise InvalidRequest(
                f"The {what} is {len(prompt)} tokens long, and the model takes {loaded.context_length}; "
                f"shorten it{remedy}."
            )
        return prompt

    async def answer(self, prompt: list[int], asked: Asked) -> AsyncGenerator[Delta, None]:
        """The answer to a prompt, piece by piece; closing the iterator cancels the generation."""
        from backends.engines.transformers_server.generation import GenerationFailed
        from backends.engines.transformers_server.text import TextStream

        loaded = self.loaded
        room = loaded.context_length - len(prompt)
        most = min(asked.most or room, room)
        text = TextStream(loaded.tokenizer, asked.stop)
        made = 0
        ended_by_model = False
        try:
            async with aclosing(loaded.generator.generate(prompt, most, loaded.stop_ids, asked.sampling)) as steps:
                async for ids in steps:
                    made += len(ids)
                    ended_by_model = ids[-1] in loaded.stop_ids
                    if new := text.feed(ids):
                        yield Delta(new)
                    if text.stopped:
                        break
        except GenerationFailed as error:
            raise EngineFailed(str(error)) from error
        rest = text.finish(half=True)
        certain = rest.rstrip("\ufffd")
        if certain:
            yield Delta(certain)
        reason = "stop" if ended_by_model or text.stopped else "length"
        # An answer given as a whole says where it was cut within a character; a stream never shows half of one.
        half = {"half_character": rest[len(certain) :]} if certain != rest else None
        yield Delta("", reason, Usage(len(prompt), made), extra=half)


def generator_for(model: Any, context: int) -> tuple[Generator, int]:
    """What generates with this model, and how many tokens one request may fill."""
    # Classes of our own make masks or positions that the paged attention of the library does not know.
    if not type(model).__module__.startswith("transformers."):
        from backends.engines.transformers_server.one_by_one import OneByOne

        return OneByOne(model), context
    from backends.engines.transformers_server.batching import Batcher
    from backends.engines.transformers_server.placement import PAGE_TOKENS, cache_size

    size = cache_size(model.config.get_text_config(), context, model.dtype)
    # One page is kept back: a request that fills the cache to the last token could not be moved aside.
    return Batcher(model, size), min(context, size.tokens - PAGE_TOKENS)


def _stop_ids(defaults: Any) -> tuple[int, ...]:
    ids = defaults.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)
