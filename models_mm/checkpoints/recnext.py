"""RecNeXt's published files (arXiv 2412.19628).

Classification files hold ``{'model': state_dict}`` with two classifiers, the second for
distillation; detection has neither. Detection files are mmdet's own format.
"""

from models_mm.checkpoints.family import Family

FAMILY = Family(
    name="recnext",
    backbones=("RecNeXt",),
    dropped=(
        r"head\.(head|head_dist)\.norm\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"head\.(head|head_dist)\.linear\.(weight|bias)",
    ),
    files=r"recnext_[ma]\d_.*\.pth",
    source="https://github.com/suous/RecNeXt (releases v1.0 for M, v2.0 for A)",
)
