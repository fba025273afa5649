"""What is particular to the published checkpoints of a family.

A family's file ends with its :class:`PublishedFiles`: which keys a published classification file
has beyond the detection backbone, which it lacks, and where its files come from. Everything else
must match by name and shape.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class PublishedFiles:
    """The published checkpoints of one family.

    Attributes:
        name: the family's name.
        dropped: patterns (full match) of keys in the file that detection does not use.
        missing: patterns (full match) of backbone keys that the file does not have.
        files: pattern of published file names.
        source: where those are published.
        url: the address of a published file, by its name, where there is a fixed one.
        rename: the entries of a file under the names of the backbone.
        adapt: the entries of a file, renamed or resized for a backbone.
        in_detectors: whether the backbones of published detectors differ from ours in the same way.
    """

    name: str
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    files: str = r"(?!)"
    source: str = ""
    url: Callable[[str], str] | None = None
    rename: Callable[[dict], dict] | None = None
    adapt: Callable[[dict, nn.Module], dict] | None = None
    in_detectors: bool = False

    def drops(self, key: str) -> bool:
        """Whether a key of the file is legitimately unused."""
        return any(re.fullmatch(pattern, key) for pattern in self.dropped)

    def lacks(self, key: str) -> bool:
        """Whether a key of the backbone is legitimately not in the file."""
        return any(re.fullmatch(pattern, key) for pattern in self.missing)

    def adapted(self, entries: dict, backbone: nn.Module) -> dict:
        """The entries of a file as the backbone has them.

        Raises:
            CheckpointError: the file is of another model.
        """
        if self.rename is not None:
            entries = self.rename(entries)
        return entries if self.adapt is None else self.adapt(entries, backbone)


# Other backbones: torchvision's and timm's files end in a classifier of one of these names.
OTHER_FILES = PublishedFiles(name="other", dropped=(r"(fc|classifier|head)\..*",))
