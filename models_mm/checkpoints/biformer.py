"""BiFormer's published files (arXiv 2303.08810).

Classification files hold ``{'model': state_dict}`` with a batch norm and a classifier at the end,
which detection has not; detection normalises each output instead, and those norms start fresh.
Detection files are mmdet's own format and complete.
"""

from torch import nn

from models_mm.checkpoints.family import Family

OUTPUT_NORMS = "extra_norms."


def adapt(entries: dict, backbone: nn.Module) -> dict:
    """Add the output norms as they are to a file that has none; some are no reason to guess."""
    if any(key.startswith(OUTPUT_NORMS) for key in entries):
        return entries
    own = backbone.state_dict()
    return entries | {key: own[key] for key in own if key.startswith(OUTPUT_NORMS)}


FAMILY = Family(
    name="biformer",
    backbones=("BiFormer",),
    dropped=(
        r"norm\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"head\.(weight|bias)",
    ),
    files=r"biformer_(small|base)_best.*\.pth",
    source="https://github.com/rayleizhu/BiFormer",
    adapt=adapt,
)
