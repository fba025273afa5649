"""RecNeXt's published files (arXiv 2412.19628).

Classification files hold ``{'model': state_dict}`` with two classifiers, the second for
distillation; detection has neither. Detection files are mmdet's own format.
"""

from models_mm.checkpoints.family import Family

RELEASES = "https://github.com/suous/RecNeXt/releases/download"


def url(file_name: str) -> str:
    """Release 1.0 has the files of the M series, 2.0 those of the A series."""
    release = "v2.0" if file_name.startswith("recnext_a") else "v1.0"
    return f"{RELEASES}/{release}/{file_name}"


FAMILY = Family(
    name="recnext",
    backbones=("RecNeXt",),
    dropped=(
        r"head\.(head|head_dist)\.norm\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"head\.(head|head_dist)\.linear\.(weight|bias)",
    ),
    files=r"recnext_[ma]\d_.*\.pth",
    source="https://github.com/suous/RecNeXt (releases v1.0 for M, v2.0 for A)",
    url=url,
)
