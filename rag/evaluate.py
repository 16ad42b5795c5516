"""How well a knowledge base finds the answers of a file of questions (SQuAD's format). Changes nothing in it."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import InvalidRequest
from rag.ranking import THRESHOLD
from rag.types import Hit

DEPTH = 10  # passages looked at for each question
_KS = (1, 2, 4, DEPTH)


@dataclass(frozen=True)
class Question:
    """A question and the texts of which one must stand in the passage that answers it."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """`places` says for each question at which place, from 1, its answer stood; 0 where not among the first `DEPTH`.
    `refused` is the share of questions whose best passage was below the threshold; `times` are in seconds."""

    places: tuple[int, ...]
    refused: float
    times: tuple[float, ...]

    def recall(self, k: int) -> float:
        """The share of the questions whose answer is among the first `k` passages."""
        return sum(0 < place <= k for place in self.places) / len(self.places)

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank (Voorhees, TREC-8, 1999), 0 for answers that are not among the first `DEPTH`."""
        return sum(1 / place for place in self.places if place) / len(self.places)

    def report(self) -> str:
        ordered = sorted(self.times)
        median, p95 = (1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
        recalls = "   ".join(f"recall@{k} {self.recall(k):.3f}" for k in _KS)
        return (
            f"{len(self.places)} questions\n{recalls}   MRR {self.mrr:.3f}\n"
            f"best passage below the threshold of {THRESHOLD}: {self.refused:.3f} of the questions\n"
            f"time for a question: {median:.0f} ms median, {p95:.0f} ms p95"
        )


def read_questions(file: Path) -> list[Question]:
    """Those of a SQuAD file that have an answer. Raises InvalidRequest when it is no such file."""
    try:
        data: Any = json.loads(file.read_text("utf-8"))
        questions = [
            Question(asked["question"], tuple({answer["text"] for answer in asked["answers"]}))
            for article in data["data"]
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
            if asked["answers"]
        ]
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}; name a file of questions.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{file} is no file of questions in SQuAD's format ({type(error).__name__}): it has "
            '{"data": [{"paragraphs": [{"qas": [{"question": ..., "answers": [{"text": ...}]}]}]}]}.'
        ) from None
    if not questions:
        raise InvalidRequest(f"{file} has no question with an answer; add some.")
    return questions


def evaluate(search: Callable[[str, int], Sequence[Hit]], questions: Sequence[Question]) -> Evaluation:
    """`search` gives the best passages for a question. An answer counts as found when its text stands in a passage;
    case, white space and compatibility forms aside."""
    places, times, refused = [], [], 0
    for question in questions:
        began = time.perf_counter()
        hits = search(question.text, DEPTH)
        times.append(time.perf_counter() - began)
        answers = [_plain(answer) for answer in question.answers]
        texts = [_plain(hit.text) for hit in hits]
        found = (at for at, text in enumerate(texts, start=1) if any(answer in text for answer in answers))
        places.append(next(found, 0))
        refused += not hits or hits[0].score < THRESHOLD
    return Evaluation(tuple(places), refused / len(questions), tuple(times))


def _plain(text: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text).casefold())
