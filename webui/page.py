"""The page's front door: `mount_page`. Importing this is cheap; Gradio is imported when the page is mounted."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

if TYPE_CHECKING:
    from accounts.accounts import Accounts
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService


@dataclass(frozen=True)
class PageSettings:
    """`data_dir` holds the page's upload folder; `max_file_size` is per uploaded file, in bytes. `token_needed`: also
    without accounts one has to log in, with the operator's token."""

    data_dir: Path
    max_file_size: int = 200 * 1024 * 1024
    token_needed: bool = False

    @property
    def upload_folder(self) -> Path:
        """Where uploads lie for the moment until they are taken over into a knowledge base."""
        return self.data_dir.resolve() / "uploads"


def mount_page(
    app: FastAPI,
    models: ModelManager,
    knowledge: KnowledgeService,
    chat: ChatService,
    accounts: Accounts,
    settings: PageSettings,
) -> None:
    """Serve the page at `/` of this app, English and Chinese. Mount it last: it answers every path that is left.

    Empties the upload folder: what lies there at a start was left by pages that are gone.
    """
    folder = settings.upload_folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    # Gradio reads these when it is imported, so they are set before.
    os.environ.update(
        GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", DO_NOT_TRACK="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )  # fmt: skip
    from webui.mount import mount

    mount(app, models, knowledge, chat, accounts, settings)
