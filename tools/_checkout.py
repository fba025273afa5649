"""Run the tools from a checkout without installing it: put the package's parent on the path.

A Python without the packages, as before the environment is activated, is told so in one line.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if (ROOT / "models_mm" / "__init__.py").is_file():
    sys.path.insert(0, str(ROOT))
if importlib.util.find_spec("torch") is None:
    sys.exit(
        f"error: {sys.executable} has no PyTorch: run 'make install' once, then "
        "'source .venv/bin/activate' (or activate the environment that models_mm is in)"
    )
