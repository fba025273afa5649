"""The config files of this package: where they are, and what they are called."""

import difflib
from pathlib import Path

from models_mm.errors import UserError
from models_mm.messages import say_once

PACKAGE = Path(__file__).resolve().parent
# configs/ and tools/ lie beside the package in a checkout, and inside it once it is installed
ROOT = PACKAGE.parent if (PACKAGE.parent / "configs").is_dir() else PACKAGE / ".mim"


def config_files() -> dict[str, Path]:
    """Every config by its name: that of its file without suffix, which a test says is unique."""
    files = (ROOT / "configs").glob("*/*.py")
    return {file.stem: file for file in sorted(files) if "_base_" not in file.parts}


def find_config(path: str) -> Path:
    """The file of a config that is given by its path or by its name.

    Args:
        path: relative to the current directory or to the project, or a name without suffix.

    Raises:
        UserError: there is none; names similar ones.
    """
    for candidate in (Path(path), ROOT / path):
        if candidate.is_file():
            return candidate.absolute()  # a link stays one: bases and the work dir go by its place
    known = config_files()
    if path in known:
        return known[path].resolve()
    if Path(path).is_dir():
        raise UserError(f"config {path} is a folder")
    if (file := known.get(Path(path).stem)) and file.name == Path(path).name:
        say_once(f"config: {path} does not exist; taking {file.relative_to(ROOT)}")
        return file.resolve()
    similar = difflib.get_close_matches(Path(path).stem, known, n=3, cutoff=0.5)
    hint = "".join(f"\n  did you mean {known[name].relative_to(ROOT)}?" for name in similar)
    raise UserError(f"config not found: {path}{hint}")


def is_config(text: str) -> bool:
    """Whether a text names a config: a Python file, or a name."""
    return text.endswith(".py") or text in config_files()


def path_of(text: str) -> str:
    """The path of a config that is given by its name; a path as it is."""
    known = config_files()
    return str(known[text]) if text in known and not Path(text).is_file() else text
