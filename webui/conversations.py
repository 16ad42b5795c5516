"""The conversations of open pages, in memory and bounded; knows no Gradio and no model."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from rag.types import Source

MAX_TURNS = 200
MAX_CHARACTERS = 1_000_000
MAX_CONVERSATIONS = 1_000


@dataclass
class Turn:
    """A question and what has been answered so far; `sources` is None in a chat without documents. `notes` tell what
    the model did not get of the history and the passages."""

    question: str
    answer: str = ""
    thought: str = ""  # what the model thought before it answered
    sources: tuple[Source, ...] | None = None
    place: int = 0  # in line, while the question waits for its turn
    finish_reason: str = ""  # "", "stop", "length", "stopped" (by the user) or "error"
    error: str = ""
    notes: tuple[str, ...] = ()
    stopping: bool = False  # somebody asked for its end
    ended: asyncio.Event = field(default_factory=asyncio.Event, compare=False)

    @property
    def size(self) -> int:
        told = len(self.question) + len(self.answer) + len(self.thought)
        return told + sum(len(source.hit.text) + len(source.quoted) for source in self.sources or ())


@dataclass
class Conversation:
    """The turns of one tab of one page; `running` is the turn being answered now."""

    turns: list[Turn] = field(default_factory=list)
    running: Turn | None = None

    @property
    def history(self) -> tuple[tuple[str, str], ...]:
        """Question and answer of every finished turn that has an answer; thoughts are not told to the model again."""
        pairs = ((t.question, t.answer) for t in self.turns if t is not self.running)
        return tuple((question, answer) for question, answer in pairs if answer)

    def begin(self, question: str) -> Turn:
        """Add a turn and make it the running one; the oldest turns go when there are too many or too much text."""
        turn = Turn(question)
        self.turns.append(turn)
        self.running = turn
        while len(self.turns) > MAX_TURNS or (len(self.turns) > 1 and sum(t.size for t in self.turns) > MAX_CHARACTERS):
            self.turns.pop(0)
        return turn

    def end(self, turn: Turn, reason: str) -> None:
        """Note why a turn ended, unless that is known already."""
        turn.finish_reason = turn.finish_reason or reason
        turn.ended.set()
        if self.running is turn:
            self.running = None


class Conversations:
    """All conversations by an unguessable key; the one unused for longest is forgotten first."""

    def __init__(self, limit: int = MAX_CONVERSATIONS) -> None:
        self._limit = limit
        self._by_key: OrderedDict[str, Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Conversation:
        """The conversation of this key, a new one where there is none."""
        conversation = self._by_key.setdefault(key, Conversation())
        self._by_key.move_to_end(key)
        while len(self._by_key) > self._limit:
            self._by_key.popitem(last=False)
        return conversation

    def forget(self, key: str) -> None:
        """Drop a conversation; an answer still being written to it ends at its next beat."""
        conversation = self._by_key.pop(key, None)
        if conversation is not None:
            if conversation.running is not None:
                conversation.running.stopping = True
            conversation.running = None
