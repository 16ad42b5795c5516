"""Bodies that are nearly right: valid ones of every call, changed in fields, types, nesting, sizes, bytes, headers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BASE = "fuzz"  # the knowledge base that some of the calls ask

_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How late does the ferry leave?"}]
_TOOL_TURN = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
_ARTICLE: list[dict[str, Any]] = [
    {"prompt": "你好", "use_stream_chat": True, "max_new_tokens": 3},
    {"prompt": "Hello", "history": [["a", "b"], ["c", "d"]], "system_prompt": "Be brief.", "temperature": 0.8},
    {"input_ids": "Hello", "top_k": 10, "top_p": 0.8, "do_sample": "True", "use_cache": "True", "stop": None},
    {"prompt": "When does the ferry leave?", "langchain": True, "knowledge_base": BASE, "mode": "retrieve"},
    {"prompt": "And back?", "knowledge_base": BASE, "history": [["When does the ferry leave?", "At nine."]]},
    {"prompt": "Hello", "model": "scripted-model", "seed": 3, "stop_sequences": ["###"], "repetition_penalty": 1.1},
]
_DIALOGUE: list[dict[str, Any]] = [
    *_ARTICLE,
    {"system_prompt": "You count.", "temperature": 0.5},
    {"prompt": "Hello", "stream_format": "delta"},
    {"prompt": "Hello", "stream_format": "json", "use_stream_chat": False},
    {"type": "stop"},
]
_CHAT: list[dict[str, Any]] = [
    {"model": "scripted-model", "messages": _MESSAGES, "stream": True, "stream_options": {"include_usage": True}},
    {"messages": _MESSAGES, "temperature": 0.2, "top_p": 1, "max_tokens": 4, "stop": ["x"], "n": 1, "seed": 7},
    {"model": f"kb:{BASE}", "messages": _MESSAGES, "max_completion_tokens": 4},
    {"messages": [*_MESSAGES, _TOOL_TURN, {"role": "tool", "content": "4", "tool_call_id": "a"}], "logprobs": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "knowledge_base": BASE},
]
_TEXT: list[dict[str, Any]] = [{"prompt": "Once upon", "max_tokens": 4}, {"prompt": ["Once"], "stream": True}]
_EMBEDDINGS: list[dict[str, Any]] = [{"input": "text"}, {"input": ["a", "b"], "encoding_format": "base64"}]

VALID: dict[str, list[dict[str, Any]]] = {
    "/": _ARTICLE,
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _TEXT,
    "/v1/embeddings": _EMBEDDINGS,
    "socket": _DIALOGUE,
}
_STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 2**31, 2**63, 2**64, 10**30, 1e308, float("nan"), float("inf"), "", " ",
    "0", "True", "null", "\0", "\ud800", "\udfff\ud800", "\x1b[2J", "<EOS>", "<|im_end|>", "a\u0300" * 50, "😀" * 20,
    "x" * 5_000, "word " * 3_000, [], {}, [[]], [None], [1, "a"], {"a": {}}, [["a"]], [["a", "b", "c"]], ["x"] * 500,
    "../../etc/passwd", "kb:", f"kb:{BASE}", "quote", {"$ref": "#"}, "' OR 1=1 --", "\r\nX-Evil: 1",
]  # fmt: skip
_TYPES = [
    "application/json", "application/json; charset=gbk", "text/plain", "application/x-www-form-urlencoded", "",
    "multipart/form-data", "multipart/form-data; boundary=x", "APPLICATION/JSON", "a/b/c;;;", "application/xml",
]  # fmt: skip
_HEADERS = [
    "Accept: text/html", "Accept: */*;q=x", "Authorization: Bearer", "Authorization: \xff\xfe", "X-Request-ID: a b",
    "X-Request-ID: " + "x" * 3_000, "Cookie: quartet_session=x; =; ;;", "Content-Encoding: gzip", "Expect: x",
    "Origin: null", "Origin: http://[", "Origin: http://evil.example:99999", "Range: bytes=a",
    "X-Forwarded-For: ::1, x", "If-None-Match: *", "Upgrade: h2c", "Accept-Encoding: br;q=-1",
]  # fmt: skip


@dataclass(frozen=True)
class Input:
    """`where` is a path for a POST, or "socket"; `data` is a body, or a message."""

    where: str
    data: bytes
    headers: tuple[str, ...] = ()


def make(random: random.Random) -> Input:
    """The next input: one of the valid ones, changed up to four times."""
    where = random.choice(["/", "/", "/", "/v1/chat/completions", "/v1/completions", "/v1/embeddings", *["socket"] * 3])
    value: Any = json.loads(json.dumps(random.choice(VALID[where])))
    for _ in range(random.choice((0, 1, 1, 2, 3, 4))):
        value = random.choice((_other_value, _other_value, _no_field, _other_name, _deeper, _longer))(random, value)
    data = _written(random, value)
    for _ in range(random.choice((0, 0, 0, 1, 3))):
        data = random.choice((_bytes_flipped, _bytes_cut, _bytes_twice, _bytes_added))(random, data)
    headers = [f"Content-Type: {random.choice(_TYPES) if random.random() < 0.3 else _TYPES[0]}"]
    if random.random() < 0.2:
        headers.append(random.choice(_HEADERS))
    return Input(where, data, tuple(headers))


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value with each of its keys."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _at_some_place(random: random.Random, value: Any, change: Callable[[Any], Any]) -> Any:
    places = _places(value)
    if not places:
        return change(value)
    container, key = random.choice(places)
    container[key] = change(container[key])
    return value


def _other_value(random: random.Random, value: Any) -> Any:
    return _at_some_place(random, value, lambda _: json.loads(json.dumps(random.choice(_STRANGE))))


def _no_field(random: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value:
        del value[random.choice(list(value))]
    return value


def _other_name(random: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value:
        known = sorted({name for bodies in VALID.values() for body in bodies for name in body})
        value[random.choice([*known, "", "\0", "__proto__", "chat_template"])] = value[random.choice(list(value))]
    return value


def _deeper(random: random.Random, value: Any) -> Any:
    def wrapped(inner: Any) -> Any:
        for _ in range(random.choice((1, 3, 60))):
            inner = {"a": inner} if random.random() < 0.5 else [inner]
        return inner

    return _at_some_place(random, value, wrapped)


def _longer(random: random.Random, value: Any) -> Any:
    def repeated(inner: Any) -> Any:
        times = random.choice((2, 30, 400))
        return inner * times if isinstance(inner, str | list) and len(str(inner)) * times < 100_000 else [inner] * times

    return _at_some_place(random, value, repeated)


def _written(random: random.Random, value: Any) -> bytes:
    """As JSON, now and then with a field twice, nested without end, in Python's spelling, or in another encoding."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    kind = random.random()
    if kind < 0.02:
        text = text.replace("{", '{"a": ' + "[" * random.choice((900, 5_000, 50_000)) + ", ", 1)
    elif kind < 0.04:
        text = text.replace("{", '{"prompt": "x", "prompt": ["y"], "prompt": "z", ', 1)
    elif kind < 0.06:
        text = repr(value)
    elif kind < 0.08:
        text = text.replace("1", "1" * 5_000)
    encoding = random.choice(("utf-8",) * 20 + ("utf-8-sig", "utf-16", "utf-32", "gb18030", "latin-1"))
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "backslashreplace")


def _bytes_flipped(random: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(min(len(changed), random.choice((1, 2, 10)))):
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _bytes_cut(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.choice((1, 5, 1_000_000)) :]


def _bytes_twice(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[max(0, start - 40) :]


def _bytes_added(random: random.Random, data: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    added = random.choice(
        (b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b'"', b"{", b"]", b"\n", b"1e999", b"-", b"\xef\xbb\xbf")
    )
    return data[:start] + added + data[start:]
