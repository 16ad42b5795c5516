"""The process that holds the reranker: how well each passage answers a question, read together. Knows no store.

A request has the question as its first text and the passages after it; its answer is one number for each passage, the
higher the better, of whichever scale the model has. rag.model_pipe has the form of both.
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

from rag import gpu_room
from rag.model_pipe import Pipe, serve

_TOGETHER = 8  # pairs in a batch: those of a question are of different lengths, and padding costs


class _Worker:
    def __init__(self, setup: dict[str, Any], pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        pipe.listen(self._waiting.put)

        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(setup["threads"])
        self._model = gpu_room.loaded(
            lambda device: CrossEncoder(
                setup["model"],
                device=device,
                revision=setup["revision"],
                local_files_only=setup["local_files_only"],
                trust_remote_code=False,
            )
        )
        if self._model.num_labels != 1:
            raise ValueError(f"it gives {self._model.num_labels} scores for a passage, a reranker gives one")
        pipe.introduce({"kind": "reranker"})

    def run(self) -> None:
        while True:
            request = self._waiting.get()
            question, *passages = request["texts"]
            pairs = [(question, passage) for passage in passages]
            try:
                self._pipe.rows(request, self._scores(pairs).reshape(-1, 1))
            except Exception as error:  # noqa: BLE001  one bad request must not take the others with it
                self._pipe.refuse(request, error)

    def _scores(self, pairs: list[tuple[str, str]]) -> Any:
        options = {"batch_size": _TOGETHER, "show_progress_bar": False}
        return gpu_room.computed(self._model, lambda: self._model.predict(pairs, **options))


if __name__ == "__main__":
    serve(_Worker)
