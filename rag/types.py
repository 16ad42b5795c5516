"""What the rag package hands to the page and the API. Frozen values; imports nothing heavy, knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from backends.types import Message, SamplingParams, Usage
from rag.ranking import THRESHOLD

FileState = Literal["uploaded", "parsing", "embedding", "searchable", "failed"]
AnswerMode = Literal["both", "retrieve", "model"]
ANSWER_MODES: tuple[AnswerMode, ...] = get_args(AnswerMode)


@dataclass(frozen=True)
class Tuning:
    """What suits some documents better than others. `threshold`, 0..1: a passage that scores less is not used.
    `passage_size`: characters of a passage at most, half as many in Chinese; of files that are read from now on."""

    threshold: float = THRESHOLD
    passage_size: int = 1000


@dataclass(frozen=True)
class FileRecord:
    """One file of a knowledge base. `name` is a label and nothing else; the bytes lie under `id`.

    `size` is in bytes. `pages` is None until the file is read, and for formats that have no pages.
    `passages` counts the passages made so far while embedding, and all of them when searchable.
    `progress` is 0..1 within the state. `reason` is "" or one of encrypted, damaged, no_text, unsupported, unsafe,
    too_slow, too_large, empty, storage_full, internal, cancelled; `error` is the sentence that goes with it. A
    searchable file has an `error` when a part of it could not be read ("16 of 19 pages read"). `created_at` is UTC,
    ISO 8601. `reindexing` is "" or, for a searchable file that is read again, the state of the new reading; `progress`
    is that one's then. `passages_per_second` is 0 and `seconds_left` None while they are not known.
    """

    id: str
    name: str
    state: FileState
    size: int
    pages: int | None
    passages: int
    progress: float
    reason: str
    error: str
    created_at: str
    reindexing: str = ""
    passages_per_second: float = 0.0
    seconds_left: float | None = None

    @property
    def finished(self) -> bool:
        """No further work will be done on this file."""
        return self.state in ("searchable", "failed") and not self.reindexing


@dataclass(frozen=True)
class KnowledgeBase:
    """A named collection of files. Both numbers count what is there, searchable or not. `owner` "" is one of all."""

    name: str
    files: int
    passages: int
    owner: str = ""


@dataclass(frozen=True)
class ModelChange:
    """The change to another embedding model. `state` is waiting, building or failed, and `error` says why it failed.
    `done` of `total` passages have vectors of it; `seconds_left` is None while that is not known."""

    model: str
    state: str
    done: int
    total: int
    passages_per_second: float
    seconds_left: float | None
    error: str


@dataclass(frozen=True)
class EmbeddingStatus:
    """The embedding model in service, "" before there is one. `version` tells its weights from others of its name;
    `note` is "" or says what the operator should know, in a sentence."""

    model: str
    version: str
    note: str
    change: ModelChange | None


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `score` is 0..1, higher is better; `page` counts from 1, None without pages."""

    passage_id: str
    text: str
    score: float
    file: str
    file_id: str
    page: int | None
    heading: str


@dataclass(frozen=True)
class Neighbours:
    """What stands before and after a passage on the same page, under the same heading: the texts of the passages there
    ("" where there is none) and their ids. Passages overlap, so a text may begin with the end of the one before."""

    before: str = ""
    after: str = ""
    before_id: str = ""
    after_id: str = ""


@dataclass(frozen=True)
class Source:
    """A passage that was put before the model; the answer cites it as `[number]`, counted from 1. `quoted` is what the
    model read: the passage, and what stands around it in its file where there was room."""

    number: int
    hit: Hit
    quoted: str


@dataclass(frozen=True)
class AnswerDelta:
    """A piece of an answer. The first one of an answer from documents carries `sources` (maybe empty) and no text;
    the last one carries `finish_reason` ("stop" | "length" | "tool_calls") and, where the engine counts, `usage`.
    `notes` come with the first one: what was left out, in sentences in the question's language. `reasoning`, `pieces`
    and `extra` are as in backends.types.Delta, and so is `place`, told only to who asks for it."""

    text: str = ""
    sources: tuple[Source, ...] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    reasoning: str = ""
    pieces: tuple[str, ...] = ()
    extra: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    place: int = 0


@dataclass(frozen=True)
class ChatRequest:
    """One question. `history` holds earlier (question, answer) pairs, oldest first. No `knowledge_base`: plain chat.
    With one, `mode` says what answers: the model from passages found ("both"), the passages alone ("retrieve"), or the
    model alone ("model").

    `messages` is a whole conversation in place of prompt, history and system prompt: the model gets it as it is, where
    of a history it gets as much as it can read. `tell_place` asks for the place in line, before the first word.
    """

    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    system_prompt: str = ""
    params: SamplingParams = field(default_factory=SamplingParams)
    knowledge_base: str = ""
    messages: tuple[Message, ...] = ()
    mode: AnswerMode = "both"
    tell_place: bool = False
