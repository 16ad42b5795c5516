"""Whose event it is: the visitor whom the door in front of the page let in, and what only admins may do here."""

from __future__ import annotations

import gradio as gr

from accounts.types import Visitor
from accounts.visiting import visitor_of
from webui.notice import say
from webui.texts import Texts


def visitor(request: gr.Request) -> Visitor:
    """Who pressed, typed or looked."""
    return visitor_of(request.request.scope)


def is_admin(request: gr.Request, texts: Texts) -> bool:
    """Whether an admin did; everybody else is told that only admins may."""
    if not visitor(request).admin:
        say(texts.admins_only, texts)
        return False
    return True
