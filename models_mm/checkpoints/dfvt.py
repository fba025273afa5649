"""DFvT's published files (ECCV 2022).

Classification files hold ``{'model': state_dict}`` with a norm and a classifier, and for the base
model with the shift masks of its two stages of more than one window; they lack what makes
detection's outputs. Detection files are mmdet's own format. The ``*_coco_pretrained.pth`` files may
be of either kind.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_mm.checkpoints.family import Family
from models_mm.errors import CheckpointError

OUTPUTS = re.compile(r"conv1x1layers\.[0-2]\.weight|norm[0-3]\.(weight|bias)")
INDEX = re.compile(r"layers\.[0-3]\.blocks\.\d+\.attn\.relative_position_index")
ENCODER = "encoder."


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Drop a prefix ``encoder.``, fit bias tables to the window, and check what is recomputed.

    Raises:
        CheckpointError: some but not all layers that make detection's outputs are there, or a
            position index is not this window's.
    """
    if any(key.startswith(ENCODER) for key in entries):
        entries = {k[len(ENCODER) :]: v for k, v in entries.items() if k.startswith(ENCODER)}
    own = backbone.state_dict()
    outputs = {key for key in own if OUTPUTS.fullmatch(key)}
    absent = sorted(outputs - entries.keys())
    if absent and len(absent) < len(outputs):
        raise CheckpointError(f"neither classification nor detection: missing {', '.join(absent)}")
    adapted = dict(entries)
    for key in own:
        if key not in entries or not INDEX.fullmatch(key):
            continue
        table = key.replace("index", "bias_table")
        if table in entries and entries[table].shape != own[table].shape:
            adapted[key] = own[key]  # the file's is of its own window, as its table is
        elif not torch.equal(entries[key].to(own[key]), own[key]):
            raise CheckpointError(f"{key} is not that of this model's window")
    for key, value in entries.items():
        if key.endswith("relative_position_bias_table") and key in own:
            adapted[key] = resized_table(value, own[key])
    return adapted


def resized_table(table: Tensor, own: Tensor) -> Tensor:
    """A bias table (positions, heads) of another window, bicubically for this model's.

    One of other heads, or of no square window, comes back as it is and will be refused.
    """
    sides = [math.isqrt(len(t)) for t in (table, own)]
    if table.shape == own.shape or table.shape[1:] != own.shape[1:] or sides[0] ** 2 != len(table):
        return table
    image = table.float().mT.unflatten(1, (sides[0], sides[0]))[None]  # (1, heads, side, side)
    image = F.interpolate(image, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return image[0].flatten(1).mT  # (positions, heads)


FAMILY = Family(
    name="dfvt",
    backbones=("DFvT",),
    # norm0 to norm3: of outputs that the model is not asked for
    dropped=(r"(norm[0-3]?|head)\.(weight|bias)", r"layers\.[01]\.blocks\.1\.attn_mask"),
    missing=(OUTPUTS.pattern, INDEX.pattern),
    files=r"DFvT_(T_7295|S_7829|B_8198|(tiny|small|base)_(coco_pretrained|for_coco))\.pth",
    source="https://github.com/ginobilinie/DFvT",
    adapt=adapt,
)
