"""Necks and heads of the published detectors on a GPU that is not there."""

import models_mm  # noqa: F401  isort: skip
import pytest
import torch
from mmcv import Config
from mmdet.models import build_head, build_neck
from torch._subclasses.fake_tensor import FakeTensorMode

from models_mm.config_files import ROOT

from .test_fake_tensors import FORMATS, GPU, to_fake_gpu

MODELS = sorted(path.stem for path in (ROOT / "configs/_base_/models").glob("*.py"))
CHANNELS = [16, 24, 32, 40]


def parts_of(model) -> tuple[dict, dict, dict]:
    """Necks, heads of the pyramid, and heads of RoIs of a config, by names."""
    necks = model.neck if isinstance(model.neck, list) else [model.neck]
    necks[0].in_channels = CHANNELS
    dense = {name: model[name] for name in ("rpn_head", "bbox_head") if name in model}
    of_rois = {}
    for name in ("bbox_head", "mask_head"):
        heads = model.get("roi_head", {}).get(name) or []
        for i, head in enumerate(heads if isinstance(heads, list) else [heads]):
            of_rois[f"{name} {i}"] = head
    return (
        {str(i): build_neck(neck) for i, neck in enumerate(necks)},
        {name: build_head(head) for name, head in dense.items()},
        {name: build_head(head) for name, head in of_rois.items()},
    )


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif value is not None:
        for part in value:
            yield from tensors(part)


@pytest.mark.parametrize("name", MODELS)
def test_necks_and_heads(name):
    parts = parts_of(Config.fromfile(ROOT / f"configs/_base_/models/{name}.py").model)
    for dtype in FORMATS:
        mode = FakeTensorMode()
        necks, dense, of_rois = (
            {name: to_fake_gpu(part, dtype, mode) for name, part in group.items()}
            for group in parts
        )
        with mode:
            maps = tuple(
                torch.empty(2, channels, 96 // 2**i, 160 // 2**i, dtype=dtype, device=GPU)
                for i, channels in enumerate(CHANNELS)
            )
            for neck in necks.values():
                maps = neck(maps)
            outs = [maps, *(head(maps) for head in dense.values())]
            for name, head in of_rois.items():
                side = 14 if name.startswith("mask") else 7
                rois = torch.empty(5, maps[0].shape[1], side, side, dtype=dtype, device=GPU)
                outs.append(head(rois))
            found = list(tensors(outs))
            assert len(found) > len(maps)
            assert all(out.device == GPU and out.dtype == dtype for out in found)
