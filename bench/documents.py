"""Every file accounted for: a folder of documents in one upload, each found by its phrase or refused with its reason.

    python -m bench.documents [FOLDER]        FOLDER holds manifest.json and the files it names

All files are added to one knowledge base, as the page does it. One that the manifest expects as text must be found with
its phrase among the first three passages; one that is to be refused must have failed with the manifest's reason.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
import unicodedata
from pathlib import Path
from typing import Any

from rag.knowledge import KnowledgeService
from rag.types import FileRecord

UNSEEN = re.compile(r"[\s\u0000-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2060\ufeff]+")


def plain(text: str) -> str:
    """As the manifest compares: NFKC, case folded, without white space, control and format characters."""
    return UNSEEN.sub("", unicodedata.normalize("NFKC", text).casefold())


async def verdict(knowledge: KnowledgeService, entry: dict[str, Any], record: FileRecord | None) -> str:
    """ "" for a file that came to what the manifest expects, else what is wrong."""
    if record is None or not record.finished:
        return "no outcome"
    if record.state == "failed":
        expected = entry["outcome"] == "refusal" and record.reason == entry["reason"]
        return "" if expected else f"refused ({record.reason}), expected {entry['outcome']} {entry.get('reason', '')}"
    if entry["outcome"] == "refusal":
        return f"searchable, expected a refusal ({entry['reason']})"
    for phrase in entry.get("phrase", []):
        hits = await knowledge.search("bench", phrase, 3)
        if not any(hit.file == record.name and plain(phrase) in plain(hit.text) for hit in hits):
            return f"“{phrase}” is not among the first three"
    return ""


async def measure(folder: Path) -> int:
    """How many files came to something else than expected."""
    entries = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    with tempfile.TemporaryDirectory() as data:
        knowledge = KnowledgeService(Path(data))
        await knowledge.start()
        await knowledge.create("bench")
        began = time.perf_counter()
        ids = [
            (await knowledge.add_file("bench", Path(entry["file"]).name, folder / entry["file"])).id
            for entry in entries
        ]
        records = {record.id: record for record in await knowledge.wait("bench", ids)}
        took = time.perf_counter() - began
        wrong = 0
        for entry, file_id in zip(entries, ids, strict=True):
            record = records.get(file_id)
            problem = await verdict(knowledge, entry, record)
            wrong += bool(problem)
            state = "missing" if record is None else f"{record.state} {record.reason}".strip()
            print(f"  {Path(entry['file']).name:32} {state:24} {problem or 'as expected'}")
        await knowledge.close()
    print(f"{len(entries) - wrong} of {len(entries)} files as expected, in {took:.1f} s")
    return wrong


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared" / "docs"
    if not (folder / "manifest.json").is_file():
        sys.exit(f"{folder / 'manifest.json'} is not there; name the folder that holds it.")
    sys.exit(1 if asyncio.run(measure(folder)) else 0)


if __name__ == "__main__":
    main()
