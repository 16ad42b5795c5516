"""The token ids of a conversation, as the model's own code builds them. Text of a message never becomes control ids."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from backends.errors import InvalidRequest
from backends.families import baichuan, chatglm, llama2, qwen
from backends.families.recognise import recognise
from backends.families.words import Encoder, Messages, split_system

NOTE = "quartet"  # key in tokenizer_config.json of a converted folder: its kind and the tokens of its prompt


def _own_prompt(kind: str) -> ModuleType | None:
    """The family module that builds the prompt of this kind; None when the model's chat template does."""
    if kind.startswith("baichuan"):
        return baichuan
    if kind in ("chatglm1", "chatglm2", "chatglm3", "glm4"):
        return chatglm
    return {"qwen1": qwen, "llama2": llama2}.get(kind)


def prompt_ids(path_or_tokenizer: Any, messages: Messages, think: bool | None = None) -> list[int]:
    """Ids for the model, the opening of the assistant's turn included; a path may be an original, unconverted folder.

    Messages have "role" (system, user, assistant) and "content"; a system message works in every family. `think` is
    for chat templates that leave it open whether the model thinks first, as Qwen3's (None: as the template will);
    others pass over it. Raises InvalidRequest for a conversation the model cannot take, and ModelUnusable for a folder
    that is no model.
    """
    split_system(messages)  # refuses what no family takes
    if isinstance(path_or_tokenizer, str | Path):
        from backends.families.load import load_tokenizer

        path_or_tokenizer = load_tokenizer(Path(path_or_tokenizer))
    note = _note(path_or_tokenizer)
    own = _own_prompt(note["kind"])
    if own is None:
        return _by_template(path_or_tokenizer, messages, {} if think is None else {"enable_thinking": think})
    ids: list[int] = own.chat_ids(note["kind"], messages, _encoder(path_or_tokenizer, note))
    return ids


def _note(tokenizer: Any) -> dict[str, Any]:
    note = getattr(tokenizer, "init_kwargs", {}).get(NOTE)
    if isinstance(note, dict):
        return note
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or "."))
    if not (folder / "config.json").is_file():
        return {"kind": "other"}
    return {"kind": recognise(folder).kind}


def _encoder(tokenizer: Any, note: dict[str, Any]) -> Encoder:
    backend = tokenizer.backend_tokenizer
    roles = note.get("roles") or {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token}
    plain = _plain(tokenizer)
    return Encoder(
        lambda text: list(plain.encode(text, add_special_tokens=False).ids),
        lambda role: int(backend.token_to_id(roles[role])),
    )


# Built once per tokenizer: a large vocabulary takes a second.
@lru_cache(maxsize=2)
def _plain(tokenizer: Any) -> Any:
    """The same tokenizer without its control tokens: whatever a text spells, it stays text."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    control = set(getattr(tokenizer, "init_kwargs", {}).get(NOTE, {}).get("control", ()))
    control |= {token["content"] for token in state["added_tokens"]}
    state |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for token in control - {state["model"].get("unk_token")}:
            vocabulary.pop(token, None)
    return Tokenizer.from_str(json.dumps(state))


def _by_template(tokenizer: Any, messages: Messages, options: Mapping[str, bool]) -> list[int]:
    """The ids of the model's own chat template."""
    broken, mark = broken_up(tokenizer, messages)
    return template_ids(tokenizer, _render(tokenizer, broken, options), mark)


def has_own_prompt(tokenizer: Any) -> bool:
    """Whether the prompt is built here, and not by the model's chat template."""
    return _own_prompt(_note(tokenizer)["kind"]) is not None


def broken_up(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The messages as a chat template may see them, and the mark ("" when none was needed).

    What a message spells like a control token is broken by the mark, so that in what the template makes of it only the
    template's own control tokens are left to be found. Contents may be nested, as lists of parts are.
    """
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    texts = json.dumps(messages, ensure_ascii=False, default=str)
    spelled = sorted((name for name in added if name and _inside(name, texts)), key=len, reverse=True)
    if not spelled:
        return [dict(message) for message in messages], ""
    mark = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in texts)
    broken = []
    for message in messages:
        # A model's own earlier answer may hold its thinking and tool marks; the template is meant to see those.
        names = [name for name in spelled if added[name].special or message.get("role") != "assistant"]
        change = partial(_broken, names=names, mark=mark)
        broken.append({key: value if key == "role" else in_texts(value, change) for key, value in message.items()})
    return broken, mark


def _inside(name: str, dumped: str) -> bool:
    """Whether a name is in a text that was written as JSON."""
    return json.dumps(name, ensure_ascii=False)[1:-1] in dumped


def _broken(text: str, names: Sequence[str], mark: str) -> str:
    for name in names:
        text = text.replace(name, name[0] + mark + name[1:])
    return text


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same lists and dictionaries, every text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: in_texts(part, change) for key, part in value.items()}
    return [in_texts(part, change) for part in value] if isinstance(value, list | tuple) else value


def template_ids(tokenizer: Any, rendered: str, mark: str) -> list[int]:
    """The ids of what a template made of messages that were `broken_up`; the mark is taken out of the text."""
    if not mark:
        return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    added = {token.content for token in tokenizer.added_tokens_decoder.values()} - {""}
    every = "|".join(re.escape(name) for name in sorted(added, key=len, reverse=True))
    plain, ids = _plain(tokenizer), []
    for part in re.split(f"({every})", rendered):
        if part in added:
            ids.append(tokenizer.convert_tokens_to_ids(part))
        elif part:
            ids += plain.encode(part.replace(mark, ""), add_special_tokens=False).ids
    return ids


def _render(tokenizer: Any, messages: Messages, options: Mapping[str, bool]) -> str:
    from jinja2.exceptions import TemplateError

    chat = [{"role": message["role"], "content": message["content"]} for message in messages]
    if not tokenizer.chat_template:
        # A base model goes on from the texts, one under the other.
        return "\n".join(message["content"] for message in chat)
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **options))
    except TemplateError as error:
        system, turns = split_system(chat)
        if system is None:
            raise InvalidRequest(f"The model's chat template does not take this conversation: {error}.") from error
        # A template without a system role gets its text in front of the first question.
        first = {"role": turns[0][0], "content": f"{system}\n\n{turns[0][1]}"}
        others = ({"role": role, "content": content} for role, content in turns[1:])
        return _render(tokenizer, [first, *others], options)
