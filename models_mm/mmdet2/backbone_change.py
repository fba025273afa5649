"""Put another backbone into a config, with all that belongs to it.

``--backbone dfvt_t`` and ``--cfg-options model.backbone.type=dfvt_t`` do this. From the published
config of the backbone come its keywords, its pretrained file, the widths that the neck gets, and
the recipe: optimizer, gradient clipping, number format. Heads, data and schedule stay.
"""

import copy

from mmcv import Config

from models_mm.config_files import MASKS, variants
from models_mm.errors import UserError
from models_mm.messages import say_once

DETECTORS = {
    "MaskRCNN": MASKS,
    "CascadeRCNN": "cascade_mask_rcnn",
    "FasterRCNN": "faster_rcnn",
    "RetinaNet": "retinanet",
}
# ``out_indices`` of the maps of strides 4, 8, 16, 32, of those that do not count them from 0 to 3.
STRIDES = {"MobileNetV2": (1, 2, 4, 7), "KW_MobileNetV2": (1, 2, 3, 4)}


def published_configs(variant: str, model: dict) -> tuple[str, str]:
    """The names of the configs that a backbone's settings come from.

    Args:
        variant: one of :func:`models_mm.config_files.variants`.
        model: of the config that is changed.

    Returns:
        That of the same detector (or Mask R-CNN's), and Mask R-CNN's.
    """
    configs = variants()[variant]
    return configs.get(DETECTORS.get(model.get("type"), MASKS), configs[MASKS]), configs[MASKS]


def change_backbone(cfg: Config, variant: str, published: Config, with_all_maps: Config) -> None:
    """Put another backbone into a config, in place.

    Args:
        cfg: the config.
        variant: the name of the backbone, for messages.
        published: the config that keywords and recipe come from.
        with_all_maps: the published config whose neck gets the maps of strides 4, 8, 16, 32.

    Raises:
        UserError: the config has no neck that takes the maps of a backbone.
    """
    neck = cfg.model.get("neck")
    neck = neck[0] if isinstance(neck, list) and neck else neck
    if not isinstance(neck, dict) or not isinstance(neck.get("in_channels"), (list, tuple)):
        raise UserError(
            f"the backbone {variant} needs a neck whose in_channels is a list, which this config "
            "lacks: set model.backbone and what reads its maps in a config file"
        )
    maps = used_maps(cfg.model.get("backbone") or {}, len(neck.in_channels))
    channels = with_all_maps.model.neck.in_channels
    backbone = copy.deepcopy(published.model.backbone)
    indices = STRIDES.get(backbone.type, range(4))
    backbone.out_indices = tuple(indices[i] for i in maps)
    cfg.model.backbone = backbone
    neck.in_channels = [channels[i] for i in maps]
    if "pretrained" in cfg.model:  # of the backbone before
        cfg.model.pretrained = None
    cfg.optimizer = copy.deepcopy(published.optimizer)
    cfg.optimizer_config = {
        **(cfg.get("optimizer_config") or {}),
        **copy.deepcopy(published.optimizer_config),
    }
    cfg.fp16 = copy.deepcopy(published.get("fp16"))
    scaling = {"enable": False, **(cfg.get("auto_scale_lr") or {})}
    cfg.auto_scale_lr = {**scaling, "base_batch_size": published.auto_scale_lr.base_batch_size}
    say_once(
        f"config: backbone {variant} with its keywords, {neck.in_channels} channels into the neck, "
        f"its optimizer ({cfg.optimizer.type}, lr {cfg.optimizer.lr:g} for "
        f"{cfg.auto_scale_lr.base_batch_size} images), clipping and precision; the rest stays"
    )


def used_maps(backbone: dict, number: int) -> list[int]:
    """Which of the maps of strides 4, 8, 16, 32 a backbone of a config gives to the neck.

    Args:
        backbone: its settings.
        number: of maps.

    Raises:
        UserError: there are more than four.
    """
    if number > 4:
        raise UserError(f"the neck takes {number} maps, and a published backbone has 4")
    indices = list(STRIDES.get(backbone.get("type"), range(4)))
    used = backbone.get("out_indices", indices)
    if len(used) == number and set(used) <= set(indices):
        return [indices.index(i) for i in used]
    return list(range(4))[-number:]
