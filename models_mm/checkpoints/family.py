"""What is particular to the published checkpoints of each family.

A :class:`Family` says which keys a published classification file has beyond the detection
backbone, which it lacks, and where its files come from. Everything else must match by name and
shape. One module per family beside this one; ``families.py`` lists
them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """The published checkpoints of one family.

    Attributes:
        name: the family's name.
        backbones: class names of the backbones that load these files.
        dropped: patterns (full match) of keys in the file that detection does not use.
        missing: patterns (full match) of backbone keys that the file does not have.
        files: pattern of published file names.
        source: where those are published.
        url: the address of a published file, by its name, where there is a fixed one.
        adapt: renames or resizes the entries of a file for a backbone.
        in_detectors: whether the backbones of published detectors differ from ours in the same way.
    """

    name: str
    backbones: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    files: str = r"(?!)"
    source: str = ""
    url: Callable[[str], str] | None = None
    adapt: Callable[[dict, nn.Module], dict] | None = None
    in_detectors: bool = False

    def drops(self, key: str) -> bool:
        """Whether a key of the file is legitimately unused."""
        return any(re.fullmatch(pattern, key) for pattern in self.dropped)

    def lacks(self, key: str) -> bool:
        """Whether a key of the backbone is legitimately not in the file."""
        return any(re.fullmatch(pattern, key) for pattern in self.missing)
