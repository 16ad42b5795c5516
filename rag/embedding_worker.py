"""The process that holds the embedding model: reads requests from stdin, writes vectors to stdout. Knows no store.

One JSON line in: `{"id", "kind": "query" | "passage" | "count", "texts"}`; one JSON line out: `{"id", "shape"}` and
then that many float32, or `{"id", "counts"}`, or `{"id", "error"}`. The first line in is the set-up, the first line out
says what the model is. Queries overtake passages. It ends when stdin does, so it cannot outlive the one who asks.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import queue
import sys
import threading
from typing import IO, Any

from rag.scripts import spoken_scripts

_URGENCY = {"query": 0, "passage": 1}


class _Worker:
    def __init__(self, setup: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self._writing = threading.Lock()
        self._waiting: queue.PriorityQueue[tuple[int, int, dict[str, Any]]] = queue.PriorityQueue()
        # Read from the start on: the end of stdin must end this process in the middle of loading, too.
        threading.Thread(target=self._read, daemon=True).start()

        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(setup["threads"])
        self._model = SentenceTransformer(
            setup["model"],
            revision=setup["revision"],
            local_files_only=setup["local_files_only"],
            trust_remote_code=False,
        )
        tokenizer = self._model.tokenizer
        # A fast tokenizer may not be used from two threads at once; the model keeps its own.
        self._tokenizer = copy.deepcopy(tokenizer)
        special = tokenizer.num_special_tokens_to_add()
        self._answer(
            {
                "dimension": self._model.get_embedding_dimension(),
                "max_tokens": (self._model.max_seq_length or tokenizer.model_max_length) - special,
                "scripts": sorted(spoken_scripts(self._ids, tokenizer.unk_token_id)),
            }
        )

    def run(self) -> None:
        while True:
            _, _, request = self._waiting.get()
            try:
                encode = self._model.encode_query if request["kind"] == "query" else self._model.encode_document
                vectors = encode(
                    request["texts"],
                    batch_size=len(request["texts"]),
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
                self._answer({"id": request["id"], "shape": vectors.shape}, vectors.astype("float32").tobytes())
            except Exception as error:  # noqa: BLE001  one bad request must not take the others with it
                self._answer({"id": request["id"], "error": f"{type(error).__name__}: {error}"})

    def _read(self) -> None:
        for number in itertools.count():
            line = self._requests.readline()
            if not line:
                os._exit(0)
            request = json.loads(line)
            if request["kind"] == "count":
                # Answered by this thread: splitting a document does not wait for a batch of vectors.
                self._answer({"id": request["id"], "counts": [len(self._ids(text)) for text in request["texts"]]})
            else:
                self._waiting.put((_URGENCY[request["kind"]], number, request))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids

    def _answer(self, head: dict[str, Any], body: bytes = b"") -> None:
        with self._writing:
            self._answers.write(json.dumps(head).encode() + b"\n" + body)
            self._answers.flush()


def main() -> None:
    """Serves until stdin ends."""
    # Libraries may print; what they print must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    setup = json.loads(requests.readline())
    try:
        worker = _Worker(setup, requests, answers)
    except Exception as error:  # whatever it is, the one who asked must hear of it
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        answers.flush()
        raise
    worker.run()


if __name__ == "__main__":
    main()
