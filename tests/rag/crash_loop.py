"""Run as a process that is killed: uploads, replaces and deletes for ever, and writes down what it was told.

python crash_loop.py DATA_DIR JOURNAL SEED
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from hashed_embeddings import HashedEmbeddings

from rag.knowledge import KnowledgeService


async def main(data: Path, journal: Path, seed: int) -> None:
    chance = random.Random(seed)
    knowledge = KnowledgeService(data, embeddings=HashedEmbeddings())
    await knowledge.start()
    if not await knowledge.list():
        await knowledge.create("kb")
    source = data.parent / f"source-{seed}.txt"
    with journal.open("a") as book:

        def note(what: str, **facts: object) -> None:
            book.write(json.dumps({"what": what, **facts}) + "\n")
            book.flush()
            os.fsync(book.fileno())

        for turn in range(10**6):
            number = chance.randrange(40)
            phrase = f"phrase{seed}x{turn}"
            paragraphs = [f"{phrase} part{n} " + "filler words in between " * 40 for n in range(chance.randrange(1, 8))]
            source.write_text("\n\n".join(paragraphs))
            note("uploading", name=f"{number}.txt")
            record = await knowledge.add_file("kb", f"{number}.txt", source)
            note("accepted", id=record.id, phrase=phrase, name=record.name)
            if chance.random() < 0.7:
                for done in await knowledge.wait("kb", [record.id]):
                    note(done.state, id=done.id)
            if chance.random() < 0.2:
                victim = chance.choice(await knowledge.files("kb"))
                note("deleting", id=victim.id)
                await knowledge.delete_file("kb", victim.id)
                note("deleted", id=victim.id)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
