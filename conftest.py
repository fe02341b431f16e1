"""The project's own tests keep their exports in a cache of their own."""

import os
from pathlib import Path

os.environ.setdefault("MODELTIERS_CACHE", str(Path(__file__).parent / ".pytest_cache" / "modeltiers"))
