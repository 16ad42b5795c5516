"""Starts the server: it listens at once, and loads the model while /health tells how far it is."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="transformers_server")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()

    import uvicorn

    from backends.engines.transformers_server.service import Service
    from backends.engines.transformers_server.web import create_app

    service = Service(options.model, options.precision)
    app = create_app(service, options.name, os.environ["ENGINE_KEY"])
    config = uvicorn.Config(app, host="127.0.0.1", port=options.port, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)

    def give_up() -> None:
        server.should_exit = True

    service.run_in_background(on_end=give_up)
    server.run()
    if service.failure:
        print(f"Error: {service.failure}", file=sys.stderr, flush=True)
    return 1 if service.failure else 0


if __name__ == "__main__":
    # os._exit: the generation thread of the library may be inside a long step, and nothing is left to flush.
    os._exit(main())
