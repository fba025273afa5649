"""Look up published files by name: their family, and where they come from."""

import re
from collections.abc import Iterator

from torch import nn

from models_mm.backbones import OTHER_FILES, REGISTRY, PublishedFiles


def families() -> Iterator[PublishedFiles]:
    """The published files of every family, each once."""
    yield from dict.fromkeys(cls.published for cls in REGISTRY.values())


def files_of(backbone: nn.Module) -> PublishedFiles:
    """The published files that a backbone loads."""
    return getattr(backbone, "published", OTHER_FILES)


def source_of(file_name: str) -> str:
    """Where a published file comes from; empty if the name is unknown."""
    for files in families():
        if re.fullmatch(files.files, file_name):
            return files.source
    return ""


def url_of(file_name: str) -> str:
    """The fixed address of a published file; empty if it has none."""
    for files in families():
        if files.url and re.fullmatch(files.files, file_name):
            return files.url(file_name)
    return ""
