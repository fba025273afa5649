"""The families whose published checkpoints the package knows."""

import re

from torch import nn

from models_mm.checkpoints import biformer, dfvt, kernelwarehouse, mpvit, recnext
from models_mm.checkpoints.family import Family

# mmdet's own backbones: torchvision's and timm's files end in a classifier of one of these names
OTHER = Family(name="other", dropped=(r"(fc|classifier|head)\..*",))


FAMILIES = (
    biformer.FAMILY,
    dfvt.FAMILY,
    kernelwarehouse.FAMILY,
    kernelwarehouse.CONVNEXT,
    kernelwarehouse.MOBILENETV2,
    kernelwarehouse.RESNET,
    mpvit.FAMILY,
    recnext.FAMILY,
)


def family_of(backbone: nn.Module) -> Family:
    """The family whose published files a backbone loads."""
    names = {cls.__name__ for cls in type(backbone).__mro__}
    for family in FAMILIES:
        if names.intersection(family.backbones):
            return family
    return OTHER


def source_of(file_name: str) -> str:
    """Where a published file of this name comes from; empty when unknown."""
    for family in FAMILIES:
        if re.fullmatch(family.files, file_name):
            return family.source
    return ""


def url_of(file_name: str) -> str:
    """The fixed address of a published file; empty when there is none."""
    for family in FAMILIES:
        if family.url and re.fullmatch(family.files, file_name):
            return family.url(file_name)
    return ""
