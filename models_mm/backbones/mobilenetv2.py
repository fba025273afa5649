"""mmdet's MobileNetV2, which also knows the keywords of KernelWarehouse's plain baseline.

Paper: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv 1801.04381.
Both are one network; the baseline counts its outputs as torchvision's layers do.
"""

from mmdet.models.backbones import MobileNetV2 as Original
from mmdet.models.builder import BACKBONES

from .reference import check_published, ignoring_resnet

# The layer of mmdet's network after which the baseline takes each output: 16, 24, 32, 96 and 1280
# channels at strides 2 to 32.
OUTPUTS = (0, 1, 2, 4, 7)


@BACKBONES.register_module(force=True)
class MobileNetV2(Original):
    """mmdet's MobileNetV2; with ``width_mult``, in the words of KernelWarehouse's baseline.

    Frozen stages are frozen from construction on, which an optimizer and DDP need.

    Args:
        args: mmdet's.
        width_mult: of the baseline; 1 is known. ``out_indices`` (of 0 to 4, default 0 to 3) and
            ``frozen_stages`` (up to 3) then count its five outputs, 16, 24, 32, 96 and 1280
            channels wide, and what its config inherits from a ResNet is ignored, with a warning.
        settings: mmdet's.

    Raises:
        ValueError: another ``width_mult``, or an output that there is not.
    """

    def __init__(self, *args, width_mult: float | None = None, **settings):
        if width_mult is None:
            Original.__init__(self, *args, **settings)
        else:
            check_published("MobileNetV2", {"width_mult": width_mult}, {"width_mult": 1.0}, ())
            self._build_baseline(*args, **settings)
        self.train(self.training)

    @ignoring_resnet("frozen_stages", "norm_eval")
    def _build_baseline(self, out_indices=(0, 1, 2, 3), frozen_stages=-1, **settings):
        if not set(out_indices) <= set(range(len(OUTPUTS))):
            raise ValueError(f"out_indices must be among 0 to 4 (width_mult), got {out_indices}")
        if frozen_stages not in range(-1, len(OUTPUTS) - 1):
            raise ValueError(f"frozen_stages must be -1 to 3 (width_mult), got {frozen_stages}")
        frozen = OUTPUTS[frozen_stages] + 1 if frozen_stages >= 0 else -1
        outputs = tuple(OUTPUTS[i] for i in out_indices)
        super().__init__(out_indices=outputs, frozen_stages=frozen, **settings)
