"""The config files of this package: where they are, and what they are called."""

import difflib
import re
from pathlib import Path

from models_mm.errors import UserError
from models_mm.messages import say_once

PACKAGE = Path(__file__).resolve().parent
# configs/ and tools/ lie beside the package in a checkout, and inside it once it is installed
ROOT = PACKAGE.parent if (PACKAGE.parent / "configs").is_dir() else PACKAGE / ".mim"
# A config's name: detector, backbone, and the rest, which says how long it is trained on what.
NAME = re.compile(r"(cascade_mask_rcnn|mask_rcnn|faster_rcnn|retinanet)_(.+?)_fpn_(.+)")
MASKS, BOXES = "mask_rcnn", "faster_rcnn"  # what a backbone's name alone stands for
# Sizes are one letter in the names of some families and a word in others; both are understood.
SIZES = {"tiny": "t", "xsmall": "xs", "small": "s", "base": "b"}


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


def variants() -> dict[str, dict[str, str]]:
    """The config of each backbone and detector: ``{"recnext_m3": {"mask_rcnn": NAME, ...}, ...}``.

    Where a detector has several schedules, it is the one of 12 epochs.
    """
    found: dict[str, dict[str, str]] = {}
    for name in config_files():
        if match := NAME.fullmatch(name):
            detector, variant, rest = match.groups()
            if not rest.startswith("ms_"):
                found.setdefault(variant, {})[detector] = name
    return found


def known_variant(text: str) -> str:
    """The name of a backbone that has configs; sizes may be written out or shortened.

    Raises:
        UserError: there is none; names similar ones.
    """
    known = variants()
    for name in spellings(text):
        if name in known:
            return name
    raise UserError(f"no backbone {text!r}{nearest(text, known)}")


def known_model(text: str, masks: bool) -> str:
    """The name of the config that a name or its unique short form stands for.

    Args:
        text: ``mask_rcnn_recnext_m3_fpn_1x_coco``, ``mask_rcnn_recnext_m3``, or a backbone, which
            stands for Mask R-CNN or Faster R-CNN.
        masks: the backbone alone stands for Mask R-CNN.

    Raises:
        UserError: it stands for none, or for several; names the nearest ones.
    """
    names, backbones = config_files(), variants()
    short = {
        f"{detector}_{variant}": name
        for variant, configs in backbones.items()
        for detector, name in configs.items()
    }
    for spelling in spellings(text):
        if spelling in names:
            return spelling
        if spelling in backbones:
            return backbones[spelling][MASKS if masks else BOXES]
        if spelling in short:
            return short[spelling]
        found = [name for name in names if name.startswith(f"{spelling}_")]
        if len(found) == 1:
            return found[0]
        if found:
            first = ", ".join(name.partition("_fpn_")[0] for name in found[:4])
            raise UserError(f"{text!r} is the beginning of {len(found)} models: {first}, ...")
    raise UserError(f"no model {text!r}{nearest(text, [*backbones, *short, *names])}")


def box_detector(name: str) -> str | None:
    """A short name of the detector with the same backbone that needs boxes only."""
    match = NAME.fullmatch(name)
    return f"{BOXES}_{match[2]}" if match and BOXES in variants().get(match[2], {}) else None


def spellings(text: str) -> list[str]:
    """A name, and the same with its size written out or shortened."""
    stem, _, size = text.rpartition("_")
    swapped = SIZES | {short: long for long, short in SIZES.items()}
    return [text, f"{stem}_{swapped[size]}"] if size in swapped else [text]


def nearest(text: str, names) -> str:
    """The end of a message: the most similar names."""
    similar = difflib.get_close_matches(text, names, n=3, cutoff=0.5)
    return f"; the nearest: {', '.join(similar)}" if similar else "; see `models_mm zoo list --all`"
