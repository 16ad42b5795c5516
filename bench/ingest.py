"""How fast uploads become searchable, beside SentenceTransformer.encode alone on the very same passages.

    python -m bench.ingest [--rounds 3] [--files 6] [--paragraphs 60]

Both take turns in one run, with the same number of threads; the last line is the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from rag.embeddings import WorkerEmbeddings
from rag.knowledge import KnowledgeService
from rag.model_name import bundled_folder
from rag.stores import open_store

_WORDS = ("the", "of", "pump", "valve", "pressure", "when", "report", "engine", "house", "under", "morning", "never")


def text(seed: int, paragraphs: int) -> str:
    """Paragraphs of about 900 characters, no two alike."""
    chance = random.Random(seed)

    def sentence() -> str:
        return f"{' '.join(chance.choices(_WORDS, k=14)).capitalize()} {chance.randrange(10**6)}."

    return "\n\n".join(" ".join(sentence() for _ in range(10)) for _ in range(paragraphs))


async def ingest(folder: Path, model: WorkerEmbeddings, seed: int, files: int, paragraphs: int) -> tuple[float, int]:
    """Seconds from the first upload until all files are searchable, and how many passages they are."""
    knowledge = KnowledgeService(folder / "data", embeddings=model)
    await knowledge.start()
    await knowledge.create("kb")
    sources = [folder / f"{number}.txt" for number in range(files)]
    for number, source in enumerate(sources):
        source.write_text(text(seed * 1000 + number, paragraphs))
    began = time.monotonic()
    ids = [(await knowledge.add_file("kb", source.name, source)).id for source in sources]
    records = await knowledge.wait("kb", ids)
    took = time.monotonic() - began
    if any(record.state != "searchable" for record in records):
        raise SystemExit(f"a file failed: {records}")
    await knowledge.close()
    return took, sum(record.passages for record in records)


def passages(data: Path) -> list[str]:
    """The passages that were embedded."""
    store = open_store(data, "")
    model = store.embedding_model() or ""
    found = [text for record in store.files("kb") for text, *_ in store.whole_file(record.id, model)[1]]
    store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--paragraphs", type=int, default=60, help="of each file")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()

    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(given.threads)
    alone = SentenceTransformer(bundled_folder(), local_files_only=True)
    model = WorkerEmbeddings(threads=given.threads)
    alone.encode(["warm"])
    model.query_vector("warm")
    ratios = []
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            took, count = asyncio.run(ingest(Path(folder), model, number, given.files, given.paragraphs))
            texts = passages(Path(folder) / "data")
        began = time.monotonic()
        alone.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        plain = time.monotonic() - began
        ratios.append(plain / took)
        print(
            f"round {number + 1}: {count} passages; ingest {count / took:.1f}/s, encode alone {count / plain:.1f}/s",
            flush=True,
        )
    model.close()
    print(f"ingest has {statistics.median(ratios):.2f} of the rate of encode alone (median of {given.rounds} rounds)")


if __name__ == "__main__":
    main()
