"""KernelWarehouse's published files (ICML 2024), with and without warehouses.

Classification files hold ``{'model': state_dict}`` or bare weights; their names at the authors'
cloud links are not fixed, and the configs expect ``pretrain/<variant>_imagenet.pth``. ResNet and
MobileNetV2 keep the classifier in detection, ConvNeXt ends in another norm there. The plain
MobileNetV2 and ResNet are mmdet's classes, the first of which has other names for everything.
"""

import re

from torch import nn

from models_mm.checkpoints.family import Family
from models_mm.errors import CheckpointError

SOURCE = "https://github.com/OSVAI/KernelWarehouse"
CELLS = re.compile(r"warehouse_manager\.weights\.\d+")
CLASSIFIER = r"(fc|classifier)(\.1)?\.(weight|bias)"
PLAIN_CLASSIFIER = (r"(fc|classifier|head)\..*",)
# Inverted residuals in mmdet's MobileNetV2, for features 1 to 17 of torchvision's.
BLOCKS = [f"layer{i}.{j}" for i, n in enumerate((1, 2, 3, 4, 3, 3, 1), start=1) for j in range(n)]


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


def with_output_norms(entries: dict, backbone: nn.Module) -> dict:
    """A classification file and the norms of detection's outputs, which it has none of."""
    if not any(re.match(r"norm[0-3]\.", key) for key in entries):
        own = backbone.state_dict()
        entries = entries | {k: own[k] for k in own if re.match(r"norm[0-3]\.", k)}
    return check_cells(entries, backbone)


def mobilenetv2_names(entries: dict, backbone: nn.Module | None = None) -> dict:
    """Names of torchvision's MobileNetV2 to those of mmdet's; a file in mmdet's stays as it is."""
    return {_mobilenetv2_name(key): value for key, value in entries.items()}


def _mobilenetv2_name(key: str) -> str:
    match = re.fullmatch(r"features\.(\d+)\.(conv\.)?(.*)", key)
    if not match or int(match[1]) >= len(BLOCKS) + 2:
        return key
    feature, rest = int(match[1]), match[3]
    if feature in (0, len(BLOCKS) + 1):
        return f"conv{2 if feature else 1}.{_conv_or_norm(rest)}"
    # A block's layers are (expansion,) depthwise, each a pair, and the projection, which is none.
    layers = ("depthwise_conv", "linear_conv")
    if feature > 1:
        layers = ("expand_conv", *layers)
    position, _, inner = rest.partition(".")
    if int(position) >= len(layers) - 1:
        position, inner = len(layers) - 1, f"{int(position) - len(layers) + 1}.{inner}"
    return f"{BLOCKS[feature - 1]}.{layers[int(position)]}.{_conv_or_norm(inner)}"


def _conv_or_norm(rest: str) -> str:
    return ("conv." if rest[0] == "0" else "bn.") + rest[2:]


FAMILY = Family(
    name="kernelwarehouse",
    backbones=("KW_ResNet", "KW_MobileNetV2"),
    dropped=(r"(fc|classifier)\.(weight|bias)",),
    files=r"(kw[14]x_)?(resnet50|mobilenetv2|convnext_t)_imagenet\.pth",
    source=SOURCE,
    adapt=check_cells,
)
CONVNEXT = Family(
    name="convnext",
    backbones=("ConvNeXt",),
    dropped=(r"(norm|head)\.(weight|bias)",),
    adapt=with_output_norms,
)
# mmdet's classes for the plain rows; published detectors have the classifier and, of MobileNetV2,
# the names of the classification file
MOBILENETV2 = Family(
    name="mobilenetv2",
    backbones=("MobileNetV2",),
    dropped=PLAIN_CLASSIFIER,
    adapt=mobilenetv2_names,
    in_detectors=True,
)
RESNET = Family(name="resnet", backbones=("ResNet",), dropped=PLAIN_CLASSIFIER, in_detectors=True)
