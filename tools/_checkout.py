"""Run the tools from a checkout without installing it: put the package's parent on the path."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "models_mm" / "__init__.py").is_file():
    sys.path.insert(0, str(ROOT))

from models_mm.cli.main import tool  # noqa: E402, F401
