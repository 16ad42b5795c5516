"""Mounting the page into the one ASGI app, safely: what Gradio leaves open is closed here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from webui.conversations import Conversations
from webui.door import PageDoor
from webui.layout import build_page
from webui.texts import CHINESE, ENGLISH
from webui.uploads import GuardedBlocks

if TYPE_CHECKING:
    from accounts.accounts import Accounts
    from backends.models import ModelManager
    from rag.chain import ChatService
    from rag.knowledge import KnowledgeService
    from webui.page import PageSettings

ASSETS = Path(__file__).resolve().parent.parent / "assets"
SYSTEM_FOLDERS = (
    "/bin", "/boot", "/data", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/usr", "/var",
)  # fmt: skip
WAITING_EVENTS = 64
SESSIONS = 500


def mount(
    app: FastAPI,
    models: ModelManager,
    knowledge: KnowledgeService,
    chat: ChatService,
    accounts: Accounts,
    settings: PageSettings,
) -> None:
    """Build both pages and mount them at `/`; called by `webui.page.mount_page`, which prepares the environment."""
    demo = build(models, knowledge, chat, accounts, settings)
    folder = settings.upload_folder
    blocked = blocked_folders([*SYSTEM_FOLDERS, Path.home(), Path.cwd(), settings.data_dir], folder)
    with warnings.catch_warnings():
        # Gradio says that several pages switch server-side rendering off, which is off here anyway.
        warnings.filterwarnings("ignore", message="SSR mode is not supported", category=UserWarning)
        gr.mount_gradio_app(
            app, demo, path="/", allowed_paths=[], blocked_paths=blocked, show_error=False, ssr_mode=False,
            max_file_size=settings.max_file_size, footer_links=[], run_history=False, enable_monitoring=False,
            mcp_server=False, pwa=False, favicon_path=str(ASSETS / "favicon.png"), css_paths=[ASSETS / "page.css"],
            theme=theme(), app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )  # fmt: skip
    mounted = app.routes[-1]
    if not isinstance(mounted, Mount):
        raise TypeError("Gradio did not mount the page as the last route")
    mounted.app = PageDoor(mounted.app)


def build(
    models: ModelManager, knowledge: KnowledgeService, chat: ChatService, accounts: Accounts, settings: PageSettings
) -> GuardedBlocks:
    """The Blocks with both pages, locked and with its queue, ready to mount."""
    conversations = Conversations()
    demo: GuardedBlocks
    with GuardedBlocks(title=ENGLISH.title, analytics_enabled=False, fill_height=True, fill_width=True,
                       delete_cache=(600, 3600)) as demo:  # fmt: skip
        build_page(demo, ENGLISH, models, knowledge, chat, conversations, accounts, settings)
    with demo.route(CHINESE.title, "/zh", show_in_navbar=False):
        build_page(demo, CHINESE, models, knowledge, chat, conversations, accounts, settings)
    demo.upload_folder = settings.upload_folder
    # Only launch() would set this; without it Gradio takes any path of the host for an uploaded file.
    demo.has_launched = True
    demo.state_session_capacity = SESSIONS
    demo.queue(api_open=False, max_size=WAITING_EVENTS, default_concurrency_limit=8)
    return demo


def blocked_folders(folders: list[str | Path], spared: Path) -> list[str]:
    """These folders; of one that holds `spared`, everything in it but the way there, because blocking wins."""
    blocked: set[str] = set()
    for folder in {Path(name).resolve() for name in folders}:
        while spared.is_relative_to(folder) and spared != folder:
            way = folder / spared.relative_to(folder).parts[0]
            blocked.update(str(entry) for entry in _entries(folder) if entry != way)
            folder = way
        if folder.exists() and not spared.is_relative_to(folder):
            blocked.add(str(folder))
    return sorted(blocked)


def _entries(folder: Path) -> list[Path]:
    # Gradio follows links before it compares, and one here may point at the way itself; what it points at is an entry
    # of its own folder.
    try:
        return [entry for entry in folder.iterdir() if not entry.is_symlink()]
    except OSError:
        return []


def theme() -> gr.themes.Base:
    """Calm colours; fonts that Gradio brings along, and for Chinese those of the visitor's machine."""
    cjk = ("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC")
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal, secondary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg, spacing_size=gr.themes.sizes.spacing_md,
        font=(gr.themes.LocalFont("IBM Plex Sans"), *cjk, "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono"), *cjk, "ui-monospace", "monospace"),
    )  # fmt: skip
