"""Objects are drawn as torchvision draws them; pictures are put together and written."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from models_mm.errors import UserError
from models_mm.outputs import Outputs
from models_mm.visualization import pictures


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_boxes_are_those_of_torchvision(width):
    """Also boxes that are partly or all outside the image."""
    rng = np.random.default_rng(width)
    for _ in range(50):
        image = rng.integers(0, 255, (40, 50, 3), np.uint8)
        boxes = np.sort(rng.uniform(-20, 70, (6, 2, 2)), axis=1).reshape(6, 4).astype(np.float32)
        boxes[:, 2:] += 2 * width
        colors = [tuple(map(int, rng.integers(0, 255, 3))) for _ in boxes]
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        theirs = draw_bounding_boxes(tensor, torch.from_numpy(boxes), colors=colors, width=width)
        for box, color in zip(boxes, colors, strict=True):
            pictures.draw_box(image, box, color, width)
        assert np.array_equal(image, theirs.permute(1, 2, 0).numpy())


def test_boxes_smaller_than_their_frame_are_filled():
    for side in range(4):
        image = np.zeros((9, 9, 3), np.uint8)
        pictures.draw_box(image, np.array([3, 3, 3 + side, 3]), (255, 255, 255), 3)
        rows, columns = np.nonzero(image[..., 0])
        assert set(rows) == {3} and sorted(columns) == list(range(3, 4 + side))


def test_masks_are_those_of_torchvision():
    rng = np.random.default_rng(0)
    for number in (1, 2, 5):
        image = rng.integers(0, 256, (40, 50, 3), np.uint8)
        masks = rng.random((number, 40, 50)) < 0.4
        colors = [tuple(map(int, rng.integers(0, 256, 3))) for _ in masks]
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        theirs = draw_segmentation_masks(
            tensor, torch.from_numpy(masks), pictures.MASK_OPACITY, colors
        )
        ours = pictures.blend_masks(image, masks, colors)
        assert np.array_equal(ours, theirs.permute(1, 2, 0).numpy())


def test_drawing_leaves_the_image_alone():
    image = np.full((60, 80, 3), 90, np.uint8)
    boxes = np.array([[5, 5, 40, 40, 0.9], [20, 10, 70, 50, 0.5]], np.float32)
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 10:30, 10:30] = masks[1, 20:40, 25:60] = True
    drawn = pictures.draw(image, boxes, np.array([0, 1]), masks, ("cat", "dog"))
    assert (image == 90).all() and drawn.shape == image.shape and (drawn != image).any()
    red, cyan = drawn[40, 10], drawn[50, 60]  # BGR, at the lower edges of the boxes
    assert red.tolist() == [0, 0, 255] and cyan[2] < 10 < 200 < min(cyan[:2])
    nothing = pictures.draw(image, boxes[:0], np.zeros(0, int), None, ("cat", "dog"))
    assert np.array_equal(nothing, image)


def test_a_grid_has_a_row_per_title():
    small, large = np.zeros((20, 30, 3), np.uint8), np.zeros((40, 50, 3), np.uint8)
    picture = pictures.grid([("one", [small, large]), ("two", [small])])
    bar = pictures.titled(small, "").shape[0] - 20
    rows = [40 + pictures.GAP + 2 * bar, 20 + pictures.GAP + 2 * bar]
    assert picture.shape == (sum(rows), 30 + 50 + 2 * pictures.GAP, 3)
    assert (picture[2 * bar : 2 * bar + 20, :30] == 0).all()  # the first picture
    assert (picture[rows[0] + 2 * bar : rows[0] + 2 * bar + 20, 30:] == 255).all()  # white beside


def test_pictures_are_written_by_their_suffix(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    pictures.write_picture(picture, tmp_path / "new/1.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "new/1.png")), picture)
    with pytest.raises(UserError, match="1.heic: OpenCV cannot write pictures of this format"):
        pictures.write_picture(picture, tmp_path / "1.heic")


def test_pictures_have_suffixes_that_can_be_written(tmp_path):
    places = Outputs(tmp_path)
    given = ("1.png", "2", "3.heic", "4.tar.gz")
    names = [pictures.picture_path(places, name).name for name in given]
    assert names == ["1.png", "2.jpg", "3.heic.jpg", "4.tar.gz.jpg"]


def test_names_do_not_cover_small_objects_of_large_pictures():
    """Letters and lines grow with the picture, and with its objects."""
    image = np.full((3000, 4000, 3), 90, np.uint8)
    changed = []
    for side in (20, 600):
        box = np.array([[1000, 1000, 1000 + side, 1000 + side, 0.9]], np.float32)
        drawn = pictures.draw(image, box, np.array([0]), None, ("cat",))
        changed.append(np.count_nonzero((drawn != image).any(axis=2)))
        inside = drawn[1000 : 1000 + side, 1000 : 1000 + side]
        assert (inside == 90).all(axis=2).mean() > 0.5
    assert changed[0] < 1500 < 20_000 < changed[1]


def test_names_may_have_letters_that_opencv_cannot_draw():
    """Half a letter, which JSON and a checkpoint may have, must not end the process."""
    box = np.array([[2.0, 2, 40, 40, 0.9]])
    drawn = pictures.draw(np.zeros((48, 48, 3), np.uint8), box, [0], None, ("half \ud800 \x1b",))
    same = pictures.draw(np.zeros((48, 48, 3), np.uint8), box, [0], None, ("half ? ?",))
    assert np.array_equal(drawn, same)
