"""The pipeline step that reads images: mmcv's decoders, and the same pixels as the plain reader."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.fileio.file_client import BaseStorageBackend
from mmdet.datasets import PIPELINES
from mmdet.datasets.pipelines import LoadImageFromFile as MMDetLoadImageFromFile
from PIL import Image

from models_mm.data.images import read_image
from models_mm.errors import UserError

from ..soak.mutations import PICTURES, with_unlink


def load(folder, name="1.jpg", **fields):
    """What the registered step makes of an image."""
    step = PIPELINES.get("LoadImageFromFile")(**fields.pop("settings", {}))
    return step(dict(img_info=dict(filename=name, **fields), img_prefix=str(folder)))


@pytest.mark.parametrize("kind", PICTURES)
def test_pixels_are_those_of_the_plain_reader_and_of_mmcv(tmp_path, kind):
    file = tmp_path / "1.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    assert cv2.imwrite(str(file), pixels)
    with_unlink(file, PICTURES[kind], pixels)
    try:
        plain = read_image(file)
    except UserError as error:
        with pytest.raises(UserError) as refused:
            load(tmp_path)
        assert str(refused.value) == str(error)
        return
    assert np.array_equal(load(tmp_path)["img"], plain)
    assert np.array_equal(mmcv.imread(str(file)), plain)


def test_results_have_the_keys_of_mmdet(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64, 3), np.uint8))
    settings = dict(to_float32=True, color_type="grayscale")
    ours = load(tmp_path, "1.png", width=64, height=48, settings=settings)
    given = dict(img_info=dict(filename="1.png"), img_prefix=str(tmp_path))
    theirs = MMDetLoadImageFromFile(**settings)(given)
    assert ours.pop("img_info") and theirs.pop("img_info")
    assert ours.keys() == theirs.keys()
    assert np.array_equal(ours.pop("img"), theirs.pop("img")) and ours == theirs


def test_the_backend_of_mmcv_is_used(tmp_path):
    """mmcv puts a colour behind transparent grey images that it reads with Pillow."""
    Image.new("LA", (64, 48), (200, 0)).save(tmp_path / "1.png")
    assert (load(tmp_path, "1.png")["img"] == 200).all()
    try:
        mmcv.use_backend("pillow")
        assert (load(tmp_path, "1.png")["img"] == (104, 117, 124)).all()
    finally:
        mmcv.use_backend("cv2")


class Store(BaseStorageBackend):
    """A file client whose files are all the same image."""

    def get(self, filepath):
        return cv2.imencode(".png", np.full((48, 64, 3), 7, np.uint8))[1].tobytes()

    def get_text(self, filepath, encoding="utf-8"):
        raise NotImplementedError


def test_file_clients_are_used():
    mmcv.FileClient.register_backend("same image", Store, force=True)
    loaded = load("bucket", settings=dict(file_client_args=dict(backend="same image")))
    assert (loaded["img"] == 7).all() and loaded["filename"] == "bucket/1.jpg"


def test_images_of_another_size_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "1.jpg"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(UserError, match="1.jpg has 64x48 pixels .upright., its annotation file"):
        load(tmp_path, width=48, height=64)
