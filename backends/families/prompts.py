"""From messages to the token ids that reach the model. What a user types stays text, never a control token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.errors import InvalidRequest, ModelUnusable

# Stand for a control token inside a user's text while the template is rendered; private use, so no text has them.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")

# For base models, which come without a chat template.
_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def prompt_ids(path_or_tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of the chat, ready for the model's answer, by the checkpoint's own chat template.

    `path_or_tokenizer` is a checkpoint folder or a loaded fast tokenizer. Control tokens that stand in a message
    (`<|im_end|>` typed by a user) are encoded as the plain characters they are. Raises InvalidRequest when the
    template refuses the conversation (a role it does not have, say).
    """
    tokenizer = _loaded(path_or_tokenizer)
    controls = sorted(
        (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True
    )
    control = re.compile("|".join(re.escape(token) for token in controls)) if controls else None
    guarded = [{**message, "content": _guard(message["content"], control, controls)} for message in messages]
    text = _rendered(tokenizer, guarded)
    if control is None or not _MARK.search(text):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return _encoded_piecewise(tokenizer, text, control, controls)


def _loaded(path_or_tokenizer: Any) -> Any:
    if not isinstance(path_or_tokenizer, str | Path):
        return path_or_tokenizer
    from backends.families.loading import load_tokenizer

    return load_tokenizer(Path(path_or_tokenizer))


def _guard(content: str, control: re.Pattern[str] | None, controls: Sequence[str]) -> str:
    content = content.replace(_OPEN, "").replace(_CLOSE, "")
    if control is None:
        return content
    return control.sub(lambda match: f"{_OPEN}{controls.index(match.group())}{_CLOSE}", content)


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    import jinja2

    template = tokenizer.chat_template or _PLAIN_TEMPLATE
    try:
        text = tokenizer.apply_chat_template(
            list(messages), chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except jinja2.TemplateError as error:
        raise InvalidRequest(f"The model's chat template does not take this conversation: {error}") from error
    if not isinstance(text, str):
        raise ModelUnusable("The model's chat template gives no text; download the model again.")
    return text


def _encoded_piecewise(tokenizer: Any, text: str, control: re.Pattern[str], controls: Sequence[str]) -> list[int]:
    """What is left of control tokens in `text` is the template's own; between them everything is plain text."""
    ids: list[int] = []
    start = 0
    for match in [*control.finditer(text), None]:
        plain = _MARK.sub(lambda mark: controls[int(mark.group(1))], text[start : match.start() if match else None])
        if plain:
            ids += tokenizer.encode(plain, add_special_tokens=False, split_special_tokens=True)
        if match:
            ids.append(tokenizer.convert_tokens_to_ids(match.group()))
            start = match.end()
    return ids
