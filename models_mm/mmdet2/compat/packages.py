"""Installations that cannot work, or only by luck, explained before they fail obscurely."""

import re
import warnings
from importlib.metadata import PackageNotFoundError, version


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def has_host() -> bool:
    """Whether any part of MMDetection is installed; a core installation has none."""
    return any(map(installed, ("mmcv", "mmcv-full", "mmdet")))


def is_host_mmcv() -> bool:
    """Whether the installed mmcv is of the generation that is patched here."""
    return any((installed(name) or "").startswith("1.7.") for name in ("mmcv", "mmcv-full"))


def problems() -> list[str]:
    """What is wrong with the installed versions, each with the way out."""
    lite, full = installed("mmcv"), installed("mmcv-full")
    found = []
    if lite and full:
        found.append(
            f"both mmcv {lite} and mmcv-full {full} are installed, and they write the same files: "
            "run `pip uninstall -y mmcv mmcv-full`, then `models_mm setup` "
            "(`models_mm setup --mmcv-full` for compiled operators)"
        )
    for name, value, option in (("mmcv", lite, ""), ("mmcv-full", full, " --mmcv-full")):
        if value and not value.startswith("1.7."):
            found.append(
                f"{name} {value} is installed, models_mm needs 1.7.x: `models_mm setup{option}`"
            )
    if not lite and not full:
        found.append("mmcv is not installed: `models_mm setup`")
    found += core_problems()
    mmdet = installed("mmdet")
    if mmdet != "2.28.2":
        state = f"mmdet {mmdet} is installed" if mmdet else "mmdet is not installed"
        found.append(f"{state}, models_mm needs 2.28.2: `models_mm setup`")
    return found


def core_problems() -> list[str]:
    """What is wrong with the packages that everything needs."""
    found = []
    for name, least in (("torch", (2, 4)), ("torchvision", (0, 19)), ("timm", (1, 0))):
        have = installed(name)
        # the first two numbers, also of 2.4rc1 and 2.4.0a0+gitf00
        if have is None or tuple(map(int, re.findall(r"\d+", have)[:2])) < least:
            state = f"{name} {have} is too old" if have else f"{name} is not installed"
            found.append(f"{state}: `pip install '{name}>={'.'.join(map(str, least))}'`")
    return found


def check() -> None:
    """Warn of a double mmcv, raise on versions that cannot work.

    Raises:
        ImportError: a package is missing, too old or of another generation.
    """
    for problem in problems():
        if problem.startswith("both "):
            warnings.warn(problem, stacklevel=2)
        else:
            raise ImportError(problem)
