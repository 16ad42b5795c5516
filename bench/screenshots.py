"""Makes the screenshots of README: starts Quartet with the sample documents and looks at it with a headless Chromium.

Run it as `python -m bench.screenshots` in the test environment; it writes assets/screenshot-*.png. The chat is held
with the tiny model of the tests, which knows a few answers by heart.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests import checkpoints
from tests.browser import Window, chromium, open_window
from tests.running_server import RunningServer, running_server

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "assets" / "samples"
WIDE = {"width": 1440, "height": 900}


def upload(server: RunningServer, base: str) -> None:
    """Make a knowledge base of the sample documents, and wait until they are searchable."""
    server.post("/api/knowledge-bases", json={"name": base}).raise_for_status()
    files = [("files", (path.name, path.read_bytes())) for path in sorted(SAMPLES.iterdir())]
    with server.client(timeout=300) as client:
        client.post(f"/api/knowledge-bases/{base}/files", params={"wait": "true"}, files=files).raise_for_status()


def documents(window: Window, question: str) -> None:
    """Ask a question in the LangChain tab and open the first source of its answer."""
    window.tab("LangChain")
    window.page.locator("#files .q-searchable").first.wait_for()
    window.ask("langchain", question)
    window.wait_for_answer("langchain")
    window.page.locator("#langchain-window .q-source summary").first.click()


def shoot(window: Window, name: str) -> None:
    """Write assets/screenshot-NAME.png in 256 colours, which is plenty for a page and small."""
    from PIL import Image

    window.page.mouse.move(0, 0)
    window.page.wait_for_timeout(1500)
    path = ROOT / "assets" / f"screenshot-{name}.png"
    window.page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="quartet-") as name, chromium() as browser:
        folder = Path(name)
        model = folder / "lighthouse-tiny"
        shutil.copytree(checkpoints.knows_by_heart(), model)
        with running_server(folder) as server:
            upload(server, "Handbooks")
            window = open_window(browser, server.url, viewport=WIDE)
            documents(window, "When can visitors look through the large telescope?")
            shoot(window, "documents")

            chinese = open_window(browser, server.url, "zh-CN", viewport=WIDE, color_scheme="dark")
            documents(chinese, "员工每年有几天带薪年假？")
            shoot(chinese, "documents-zh")

            window.load(str(model))
            window.tab("Chat")
            window.page.click("#sampling > button")
            for question in list(checkpoints.QUESTIONS)[:3]:
                window.ask("chat", question)
                window.wait_for_answer("chat")
            shoot(window, "chat")

            narrow = open_window(browser, server.url, viewport={"width": 420, "height": 860})
            narrow.ask("chat", next(iter(checkpoints.QUESTIONS)))
            narrow.wait_for_answer("chat")
            shoot(narrow, "narrow")


if __name__ == "__main__":
    main()
