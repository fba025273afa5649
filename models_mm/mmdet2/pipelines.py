"""The pipeline step that reads images."""

import os
from functools import partial

import mmcv
import numpy as np
from mmdet.datasets import PIPELINES
from mmdet.datasets.pipelines import LoadImageFromFile as MMDetLoadImageFromFile

from models_mm.data.images import check_size, decode, read_file


@PIPELINES.register_module(force=True)
class LoadImageFromFile(MMDetLoadImageFromFile):
    """mmdet's ``LoadImageFromFile``, which names a file that cannot be used.

    It also refuses an image whose size is not the size in its annotations, because boxes and masks
    would be misplaced.
    """

    def __call__(self, results: dict) -> dict:
        """Load the image of ``img_info`` from ``img_prefix``; the keys are mmdet's.

        Raises:
            UserError: the image cannot be used.
        """
        info, prefix = results["img_info"], results["img_prefix"]
        name = info["filename"]
        path = name if prefix is None else os.path.join(prefix, name)
        if self.file_client_args["backend"] == "disk":
            content = read_file(path)
        else:
            self.file_client = self.file_client or mmcv.FileClient(**self.file_client_args)
            content = self.file_client.get(path)
        # mmcv's decoder, which `mmcv.use_backend` chooses
        decoder = partial(mmcv.imfrombytes, flag=self.color_type, channel_order=self.channel_order)
        image = decode(content, path, decoder)
        check_size(path, image, info)
        if self.to_float32:
            image = image.astype(np.float32)
        shape = image.shape
        loaded = dict(filename=path, ori_filename=name, img=image, img_shape=shape, ori_shape=shape)
        return results | loaded | {"img_fields": ["img"]}
