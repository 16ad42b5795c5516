"""From the command to the first page: Quartet next to a bare Gradio ChatInterface, started in turn on this machine.

    python -m bench.first_page [--rounds 5]

Prints both medians in seconds and their ratio; everything is installed and nothing is warmed up on purpose.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = """
import sys
import gradio as gr
gr.ChatInterface(lambda message, history: message).launch(server_port=int(sys.argv[1]), quiet=True)
"""


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def seconds_to_first_page(command: Sequence[str], port: int, limit: float = 120.0) -> float:
    """Seconds from starting `command` to the first complete answer to GET /; ends what it started."""
    offline = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    server = subprocess.Popen(command, cwd=ROOT, env=offline, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() - started < limit:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=limit) as page:
                    page.read()
                return time.perf_counter() - started
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None:
                    raise RuntimeError(
                        f"{command[1]} ended with code {server.returncode} before it served a page"
                    ) from None
                time.sleep(0.02)
        raise TimeoutError(f"{command[1]} served no page within {limit:.0f} s")
    finally:
        server.terminate()
        server.wait(30)


def measure(rounds: int) -> tuple[float, float]:
    """Median seconds to the first page of (the bare ChatInterface, Quartet), started in turn `rounds` times."""
    bare: list[float] = []
    quartet: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            port = free_port()
            bare.append(seconds_to_first_page([sys.executable, "-c", BARE, str(port)], port))
            port = free_port()
            command = [sys.executable, "app.py", "--port", str(port), "--data-dir", folder]
            quartet.append(seconds_to_first_page(command, port))
    return statistics.median(bare), statistics.median(quartet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    bare, quartet = measure(parser.parse_args().rounds)
    print(f"bare ChatInterface {bare:.2f} s, Quartet {quartet:.2f} s, ratio {quartet / bare:.2f}")


if __name__ == "__main__":
    main()
