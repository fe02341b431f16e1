"""Plugins of the project's own tests, and a cache of exports that is theirs."""

import os
from pathlib import Path

pytest_plugins = ["pytester"]

os.environ.setdefault("MODELTIERS_CACHE", str(Path(__file__).parent / ".pytest_cache" / "modeltiers"))
