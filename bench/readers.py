"""pypdf, which reads PDF here, beside pdfium: phrases found, reading order, time for a page and memory of each.

    pip install pypdfium2==5.15.2
    python -m bench.readers [FOLDER]        FOLDER holds manifest.json and the files it names

Each file is read in a process of its own, as the app does it, which also counts what the library's import takes. Beside
the folder's PDFs there are three made here: 200 pages of English, 200 of Chinese, and a page whose lines are drawn from
the last to the first, of which the share of neighbours in reading order is told.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.documents import plain
from tests.documents import CHINESE_PAGES, ENGLISH_PAGES, pdf

LIBRARIES = ("pypdf", "pypdfium2")
PAGES = 200
LINES = 40


def pages_of(library: str, path: str) -> list[str]:
    """The text of each page, by the library's plain way; raises whatever it raises."""
    module: Any = importlib.import_module(library)
    if library == "pypdf":
        reader = module.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise ValueError("needs a password")
        return [page.extract_text() for page in reader.pages]
    document = module.PdfDocument(path)
    return [document[number].get_textpage().get_text_bounded() for number in range(len(document))]


def read_one(library: str, path: str) -> None:
    """The work of the process: prints one line of JSON."""
    began = time.perf_counter(), time.process_time()
    importlib.import_module(library)
    imported = time.process_time() - began[1]
    began = time.perf_counter(), time.process_time()
    try:
        said: dict[str, Any] = {"pages": pages_of(library, path)}
    except Exception as error:  # noqa: BLE001  what it refuses is a result, too
        said = {"error": f"{type(error).__name__}: {error}"[:80]}
    took = time.process_time() - began[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**said, "imported": imported, "took": took, "memory": memory}))


def measured(library: str, path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.readers", "--one", library, str(path)], capture_output=True, timeout=300
    )
    if done.returncode:
        return {"error": f"the process ended with {done.returncode}", "imported": 0.0, "took": 0.0, "memory": 0.0}
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def in_order(text: str) -> float:
    """The share of neighbouring lines of the page drawn backwards that come in reading order."""
    places = [text.find(f"line {n:02d} ") for n in range(LINES)]
    return sum(0 <= one < other for one, other in pairwise(places)) / (LINES - 1)


def made(folder: Path) -> dict[Path, list[str]]:
    """Files made here, with phrases that are in them."""
    from reportlab.pdfgen.canvas import Canvas

    english, chinese, backwards = (folder / name for name in ("200-english.pdf", "200-chinese.pdf", "backwards.pdf"))
    english.write_bytes(pdf([f"{ENGLISH_PAGES[n % 3]} " * 15 for n in range(PAGES)]))
    chinese.write_bytes(pdf([CHINESE_PAGES[n % 2] * 15 for n in range(PAGES)], font="STSong-Light"))
    canvas = Canvas(str(backwards), invariant=1)
    for n in reversed(range(LINES)):
        canvas.drawString(72, 780 - 16 * n, f"line {n:02d} of the page")
    canvas.save()
    return {english: [ENGLISH_PAGES[0][:40]], chinese: [CHINESE_PAGES[0][:12]], backwards: ["of the page"]}


def report(path: Path, library: str, phrases: list[str]) -> None:
    said = measured(library, path)
    if "error" in said:
        outcome = f"refused: {said['error']}"
    else:
        text = "\n".join(said["pages"])
        found = sum(plain(phrase) in plain(text) for phrase in phrases)
        outcome = f"{found} of {len(phrases)} phrases, {len(text.strip())} characters"
        outcome += f", {1000 * said['took'] / max(1, len(said['pages'])):.1f} ms a page"
        if path.name == "backwards.pdf":
            outcome += f", {in_order(text):.2f} in order"
    print(
        f"  {path.name:32} {library:10} import {1000 * said['imported']:4.0f} ms, {said['memory']:4.0f} MiB, {outcome}",
        flush=True,
    )


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        return read_one(*sys.argv[2:4])
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared" / "docs"
    if not (folder / "manifest.json").is_file():
        sys.exit(f"{folder / 'manifest.json'} is not there; name the folder that holds it.")
    if importlib.util.find_spec(LIBRARIES[1]) is None:
        sys.exit("pypdfium2 is not installed: pip install pypdfium2==5.15.2")
    entries = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    files = {folder / entry["file"]: entry.get("phrase", []) for entry in entries if entry["file"].endswith(".pdf")}
    print("times are CPU times, of the import and of the reading; memory is the peak of the process")
    with tempfile.TemporaryDirectory() as made_here:
        for path, phrases in {**files, **made(Path(made_here))}.items():
            for library in LIBRARIES:
                report(path, library, phrases)
    return None


if __name__ == "__main__":
    main()
