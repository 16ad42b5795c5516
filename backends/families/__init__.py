"""What a checkpoint is, and the token ids its model was trained to be prompted with. Knows no engine.

Importing this package loads neither torch nor transformers: the app asks `recognise` before any engine exists.
"""

from __future__ import annotations

from backends.families.prompts import prompt_ids
from backends.families.recognise import Checkpoint, recognise

__all__ = ["Checkpoint", "prompt_ids", "recognise"]
