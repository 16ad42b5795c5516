"""Puts the best hits in the order of a cross-encoder, a model that reads question and passage together. Optional.

It runs in a process of its own (rag.reranking_worker), loaded with the first question. Knows no store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from backends.errors import EngineFailed, ModelUnusable
from rag.model_process import ModelProcess, Role
from rag.ranking import Scored, reordered

CANDIDATES = 20  # of the best: each costs as much as the embedding of a passage

_ROLE = Role(
    "rag.reranking_worker",
    "reranker",
    "Name a folder or hub id of a cross-encoder with --reranker-model, or leave it out; until the next start questions "
    "are answered without it.",
)


class Reranker:
    """`source` is a folder or a hub id. Blocks; any number of threads may ask, and take turns in the model."""

    def __init__(self, source: str, log_file: Path | None = None, threads: int | None = None) -> None:
        folder = Path(source).expanduser()
        self._process = ModelProcess(_ROLE, str(folder.resolve()) if folder.is_dir() else source, log_file, threads)
        self.trouble = ""  # why it is not used, in a sentence

    def reordered(self, query: str, ranked: Sequence[Scored]) -> list[Scored]:
        """`ranked`, the best of it in the model's order; as it is when nothing in it answers, or there is no model."""
        best = ranked[:CANDIDATES]
        if self.trouble or len(best) < 2 or not best[0].score:
            return list(ranked)
        try:
            rows = self._process.ask("rerank", [query, *(scored.candidate.text for scored in best)])
        except ModelUnusable as error:
            if not self.trouble:
                logging.getLogger("quartet").warning("%s", error.message)
            self.trouble = error.message
            return list(ranked)
        except EngineFailed:  # the next question starts it again; this one need not wait
            return list(ranked)
        return reordered(ranked, rows[:, 0].tolist())

    def close(self) -> None:
        """Ends its process."""
        self._process.close()
