"""KernelWarehouse's published files (ICML 2024): what its networks have in common.

Classification files hold ``{"model": state_dict}`` or bare weights; their names at the authors'
cloud links are not fixed, and the configs expect ``pretrain/<variant>_imagenet.pth``. ResNet and
MobileNetV2 keep the classifier in detection, ConvNeXt ends in another norm there.
"""

import re

from torch import nn

from models_mm.errors import CheckpointError

from .published import PublishedFiles

CELLS = re.compile(r"warehouse_manager\.weights\.\d+")
CLASSIFIER = r"(fc|classifier)(\.1)?\.(weight|bias)"


def check_cells(entries: dict, backbone: nn.Module) -> dict:
    """Keep a classifier of another number of classes as it is, and refuse other warehouses.

    Raises:
        CheckpointError: warehouses of another shape or number.
    """
    own = backbone.state_dict()
    for key in sorted(k for k in {*own, *entries} if CELLS.fullmatch(k)):
        shapes = [tuple(d[key].shape) if key in d else "none" for d in (entries, own)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{key} is {shapes[0]} instead of {shapes[1]}: the file is of another "
                "cell_num_ratio or sharing_range"
            )
    return {key: of_other_classes(key, value, own) for key, value in entries.items()}


def of_other_classes(key: str, value, own: dict):
    """A file's entry; a classifier for another number of classes gives way to the model's."""
    other = key in own and re.fullmatch(CLASSIFIER, key) and value.shape != own[key].shape
    return own[key] if other else value


KW_FILES = PublishedFiles(
    name="kernelwarehouse",
    dropped=(r"(fc|classifier)\.(weight|bias)",),
    files=r"(kw[14]x_)?(resnet50|mobilenetv2|convnext_t)_imagenet\.pth",
    source="https://github.com/OSVAI/KernelWarehouse",
    adapt=check_cells,
)
