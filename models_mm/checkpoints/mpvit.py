"""MPViT's published files (CVPR 2022), made by and for detectron2.

Classification files hold ``{'model': state_dict}`` with a classifier, and for detection without one
and with the backbone's place in a detectron2 detector before every key, of which a file may lack
any part. Whole detectors go through ``tools/convert_checkpoint.py mpvit-detectron2``.
"""

import re

from torch import nn

from models_mm.checkpoints.family import Family
from models_mm.errors import CheckpointError

# detectron2's places of the backbone, the longest first
PREFIXES = ("backbone.bottom_up.backbone.", "bottom_up.backbone.", "backbone.")
CLASSIFIER = re.compile(r"cls_head\.cls\.(weight|bias)")
FIRST_LINEAR = "mhca_blks.0.MHCA_layers.0.mlp.fc1.weight"


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Drop detectron2's prefix of the backbone's keys.

    Raises:
        CheckpointError: the file's MLPs are of another ratio than the model's.
    """
    adapted = {bare(key): value for key, value in entries.items()}
    if len(adapted) < len(entries):
        raise CheckpointError("some of its keys differ in nothing but the prefix")
    theirs, ours = mlp_ratios(adapted), mlp_ratios(backbone.state_dict())
    if theirs and theirs != ours:
        raise CheckpointError(
            f"the file's MLP ratios are {theirs} and the model's {ours}: set "
            f"model.backbone.mlp_ratio={theirs} to use it"
        )
    return adapted


def bare(key: str) -> str:
    """A backbone's key without detectron2's prefix, or any part of it."""
    return next((key[len(prefix) :] for prefix in PREFIXES if key.startswith(prefix)), key)


def mlp_ratios(entries: dict) -> list[float]:
    """Hidden width over width of the MLPs, by stage; of a file without MPViT's stages, nothing."""
    weights = [entries.get(f"mhca_stages.{i}.{FIRST_LINEAR}") for i in range(4)]
    if any(weight is None or weight.dim() != 2 for weight in weights):
        return []
    ratios = [len(weight) / weight.shape[1] for weight in weights]
    return [int(ratio) if ratio.is_integer() else ratio for ratio in ratios]


FAMILY = Family(
    name="mpvit",
    backbones=("MPViT",),
    dropped=(
        CLASSIFIER.pattern,
        r"pixel_(mean|std)",
        # of detectron2's FPN, which counts as backbone there
        r"fpn_(lateral|output)[2-5]\.(weight|bias)",
        r"top_block\.p[67]\.(weight|bias)",
    ),
    files=r"(retinanet_|mask_rcnn_)?mpvit_(tiny|xsmall|xs|small|base)(_d2|_1x|_ms_3x)?\.pth",
    source="https://github.com/youngwanLEE/MPViT",
    adapt=adapt,
)
