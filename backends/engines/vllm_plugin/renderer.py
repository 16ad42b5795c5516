"""The prompts of the families in vLLM: the ids that the original chat code builds; typed control tokens stay text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.renderers.hf import HfRenderer
from vllm.tokenizers.hf import get_cached_tokenizer
from vllm.utils.async_utils import make_async

from backends.engines.vllm_plugin.answers import DECODED_HERE, decode_answers
from backends.engines.vllm_plugin.requests import read_requests
from backends.errors import InvalidRequest
from backends.families.load import load_tokenizer
from backends.families.prompts import broken_up, has_own_prompt, in_texts, prompt_ids, template_ids

# As requests spell them -> as the families know them.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# What a request may say of the template without asking for anything that a plain conversation is not.
_ORDINARY: Mapping[str, Any] = {"add_generation_prompt": True, "continue_final_message": False, "tokenize": False}


class FamilyTokenizer:
    """Stands in vLLM's registry of tokenizers; what it gives is the tokenizer that the transformers engine uses."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *args: Any, truncation_side: str = "left", **kwargs: Any) -> Any:
        tokenizer = load_tokenizer(Path(path))
        tokenizer.truncation_side = truncation_side
        setattr(tokenizer, DECODED_HERE, True)
        return get_cached_tokenizer(tokenizer)


class FamilyRenderer(HfRenderer):  # type: ignore[misc]
    """From messages to token ids. Conversations of texts have the ids of `prompt_ids`; those with tools and the like go
    through the chat template, which then sees what users typed with its control tokens broken."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        # The process that renders prompts is the one that reads requests and writes answers.
        read_requests()
        decode_answers()
        self._prompt_ids_async = make_async(self._prompt_ids, executor=self._executor)
        self._template_ids_async = make_async(template_ids, executor=self._executor)

    def render_messages(self, messages: list[Any], params: Any) -> tuple[list[Any], Any]:
        messages = [_materialised(message) for message in messages]
        if (plain := self._plain(messages, params)) is not None:
            return plain, TokensPrompt(prompt_token_ids=self._prompt_ids(plain))
        broken, mark = broken_up(self.tokenizer, messages)
        conversation, prompt = super().render_messages(broken, _as_text(params))
        return _mended(conversation, mark), self._tokens(prompt, template_ids(self.tokenizer, prompt["prompt"], mark))

    async def render_messages_async(self, messages: list[Any], params: Any) -> tuple[list[Any], Any]:
        messages = [_materialised(message) for message in messages]
        if (plain := self._plain(messages, params)) is not None:
            return plain, TokensPrompt(prompt_token_ids=await self._prompt_ids_async(plain))
        broken, mark = broken_up(self.tokenizer, messages)
        conversation, prompt = await super().render_messages_async(broken, _as_text(params))
        ids = await self._template_ids_async(self.tokenizer, prompt["prompt"], mark)
        return _mended(conversation, mark), self._tokens(prompt, ids)

    def _plain(self, messages: list[dict[str, Any]], params: Any) -> list[dict[str, str]] | None:
        """Role and text of each message; None for what only the chat template knows how to write."""
        asked = {name: value for name, value in params.chat_template_kwargs.items() if value not in (None, [], ())}
        special = {name for name, value in asked.items() if _ORDINARY.get(name) != value}
        # Switches of a template (enable_thinking, say) mean nothing to a family that has none of its own.
        if has_own_prompt(self.tokenizer):
            special &= {*_ORDINARY, "tools", "documents"}
        texts = [_text(message) for message in messages]
        if special or params.chat_template is not None or any(text is None for text in texts):
            if params.chat_template is None and not self.tokenizer.chat_template:
                raise VLLMValidationError(
                    "This model has no chat template, so it takes conversations of texts only: leave out tools, "
                    "documents and other kinds of messages."
                )
            return None
        roles = [_ROLES[message["role"]] for message in messages]
        return [{"role": role, "content": text or ""} for role, text in zip(roles, texts, strict=True)]

    def _prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            ids = prompt_ids(self.tokenizer, messages)
        except InvalidRequest as error:
            raise VLLMValidationError(error.message) from error
        if len(ids) >= self.model_config.max_model_len:
            raise VLLMValidationError(self._too_long(len(ids)))
        return ids

    def _too_long(self, tokens: int) -> str:
        longest = self.model_config.max_model_len
        # How Qwen 1 reads beyond the length it was trained at (dynamic NTK and logn) is not in vLLM.
        stretch = getattr(self.model_config.hf_config, "qwen1_beyond_seq_length", None) or {}
        further = int(stretch.get("max_length") or 0) if stretch.get("dynamic_ntk") or stretch.get("logn") else 0
        hint = f" On the transformers engine this model takes {further}." if further > longest else ""
        return (
            f"The conversation is {tokens} tokens long, and the model takes {longest}; "
            f"shorten it or start a new one.{hint}"
        )

    @staticmethod
    def _tokens(prompt: Mapping[str, Any], ids: list[int]) -> Any:
        rest = {key: value for key, value in prompt.items() if key != "prompt"}
        return TokensPrompt(prompt_token_ids=ids, **rest)


def _materialised(message: Mapping[str, Any]) -> dict[str, Any]:
    """Lists in a request are read lazily, and once only."""

    def whole(value: Any) -> Any:
        return list(value) if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else value

    return {key: whole(value) for key, value in message.items()}


def _text(message: Mapping[str, Any]) -> str | None:
    """What a message says when it is nothing but text, else None."""
    given = {key for key, value in message.items() if value not in (None, [], "")}
    if message.get("role") not in _ROLES or given - {"role", "content", "name"}:
        return None
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return None
    # One under the other, as vLLM does it for templates that know only text.
    return "\n".join(str(part.get("text") or "") for part in content)


def _as_text(params: Any) -> Any:
    return replace(params, chat_template_kwargs={**params.chat_template_kwargs, "tokenize": False})


def _mended(conversation: list[Any], mark: str) -> list[Any]:
    return in_texts(conversation, lambda text: text.replace(mark, "")) if mark else conversation
