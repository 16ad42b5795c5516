"""The process that holds the embedding model: vectors of questions and passages, counts of tokens. Knows no store.

Requests of kind "query" (one text) overtake those of kind "passage", and those that wait are embedded together; "count"
waits for neither. rag.model_pipe has the form of requests and answers.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import deque
from typing import Any

import numpy as np

from rag import gpu_room
from rag.model_pipe import Pipe, serve
from rag.scripts import spoken_scripts

_QUERIES = 32  # embedded together
_PIECE = 4  # passages that a query may have to wait for
_BUSY = 10.0  # seconds after a query in which another is expected


class _Worker:
    def __init__(self, setup: dict[str, Any], pipe: Pipe) -> None:
        self._pipe = pipe
        self._queries: deque[dict[str, Any]] = deque()  # with one text each
        self._passages: deque[dict[str, Any]] = deque()
        self._arrived = threading.Semaphore(0)
        self._asked = -math.inf  # when the last query came
        pipe.listen(self._take)

        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(setup["threads"])
        self._model = gpu_room.loaded(
            lambda device: SentenceTransformer(
                setup["model"],
                device=device,
                revision=setup["revision"],
                local_files_only=setup["local_files_only"],
                trust_remote_code=False,
            )
        )
        tokenizer = self._model.tokenizer
        # A fast tokenizer may not be used from two threads at once; the model keeps its own.
        self._tokenizer = copy.deepcopy(tokenizer)
        special = tokenizer.num_special_tokens_to_add()
        pipe.introduce(
            {
                "dimension": self._model.get_embedding_dimension(),
                "max_tokens": (self._model.max_seq_length or tokenizer.model_max_length) - special,
                "scripts": sorted(spoken_scripts(self._ids, tokenizer.unk_token_id)),
            }
        )

    def run(self) -> None:
        while True:
            self._arrived.acquire()
            self._answer_queries()
            if self._passages:
                self._answer_passages(self._passages.popleft())

    def _answer_queries(self) -> None:
        """All that wait now, together: it takes little longer than one of them. Those that come meanwhile are not
        among them, or uploads would stand still while enough people ask."""
        waiting = len(self._queries)
        for start in range(0, waiting, _QUERIES):
            asked = [self._queries.popleft() for _ in range(min(_QUERIES, waiting - start))]
            self._asked = time.monotonic()
            self._answer_together(asked)

    def _answer_together(self, asked: list[dict[str, Any]]) -> None:
        try:
            rows = self._encode("query", [request["texts"][0] for request in asked])
        except Exception as error:  # noqa: BLE001  one bad request must not take the others with it
            if len(asked) == 1:
                self._pipe.refuse(asked[0], error)
            else:
                for request in asked:
                    self._answer_together([request])
            return
        for at, request in enumerate(asked):
            self._pipe.rows(request, rows[at : at + 1])

    def _answer_passages(self, request: dict[str, Any]) -> None:
        """In pieces while there are questions: those that come meanwhile wait for one of these, not for all."""
        texts = request["texts"]
        size = _PIECE if time.monotonic() - self._asked < _BUSY else len(texts)
        try:
            rows = []
            for start in range(0, len(texts), size):
                self._answer_queries()
                rows.append(self._encode("passage", texts[start : start + size]))
        except Exception as error:  # noqa: BLE001
            self._pipe.refuse(request, error)
        else:
            self._pipe.rows(request, np.concatenate(rows))

    def _encode(self, kind: str, texts: list[str]) -> Any:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        options = {"batch_size": len(texts), "normalize_embeddings": True, "show_progress_bar": False}
        return gpu_room.computed(self._model, lambda: encode(texts, **options))

    def _take(self, request: dict[str, Any]) -> None:
        if request["kind"] == "count":
            # Answered by the thread that reads: splitting a document does not wait for a batch of vectors.
            self._pipe.counts(request, [len(self._ids(text)) for text in request["texts"]])
        else:
            (self._queries if request["kind"] == "query" else self._passages).append(request)
            self._arrived.release()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids


if __name__ == "__main__":
    serve(_Worker)
