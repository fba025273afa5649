"""Pictures of results while a detector is tested, drawn by the detector's ``show_result``."""

from functools import partial

import matplotlib
import mmcv
import torch
from mmcv.image import tensor2imgs
from torch import nn

from models_mm.mmdet2.data_files import files_of
from models_mm.outputs import Outputs
from models_mm.visualization.pictures import picture_path


def shower(model: nn.Module, dataset, show: bool, folder: str | None, score_thr: float):
    """Make a function that takes a batch and its results, and shows or writes each image.

    Args:
        model: the detector in mmcv's parallel wrapper.
        dataset: its images are never overwritten.
        show: show the pictures in a window.
        folder: of the pictures, which have the names of the images; ``None``: do not write them.
        score_thr: the lowest score drawn.
    """
    places = Outputs(folder, files_of(dataset)) if folder else None
    colors = getattr(dataset, "PALETTE", None)
    options = dict(bbox_color=colors, text_color=colors, mask_color=colors)
    options |= dict(show=show, score_thr=score_thr)
    return partial(show_batch, model, places, options)


def show_batch(model: nn.Module, places: Outputs | None, options: dict, batch: dict, found: list):
    """Show or write the images of a batch in their original size; arguments as of the above."""
    image = batch["img"][0]
    pixels = image if torch.is_tensor(image) else image.data[0]
    metas = batch["img_metas"][0].data[0]
    pictures = tensor2imgs(pixels, **metas[0]["img_norm_cfg"])
    for picture, meta, result in zip(pictures, metas, found, strict=True):
        (height, width), size = meta["img_shape"][:2], meta["ori_shape"][1::-1]
        picture = mmcv.imresize(picture[:height, :width], size)
        file = places and str(picture_path(places, meta["ori_filename"]))
        with matplotlib.rc_context({"text.parse_math": False}):  # class names are not formulas
            model.module.show_result(picture, result, out_file=file, **options)
