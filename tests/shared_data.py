"""Where the data lies that is handed over beside the repository; tests that need it are skipped where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

requires_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder 'shared' beside the repository")
