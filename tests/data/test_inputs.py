"""Images, folders and videos that are given to a prediction."""

import cv2
import numpy as np
import pytest

from models_mm.data.inputs import batches, find_inputs, frame_count, frames, read_images
from models_mm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Two images, a text with an image's suffix, another text, and a video of three frames."""
    for name, value in (("b.JPG", 90), ("a.png", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((20, 30, 3), value, np.uint8))
    (tmp_path / "c.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no image at all")
    size = (64, 48)
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, size)
    for value in (10, 100, 200):
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    return tmp_path


def test_folders_give_their_images_and_files_are_taken_as_they_are(folder):
    files, videos = find_inputs([str(folder), str(folder / "clip.avi"), str(folder / "notes.txt")])
    assert [file.name for file in files] == ["a.png", "b.JPG", "c.png", "notes.txt"]
    assert [video.name for video in videos] == ["clip.avi"]
    with pytest.raises(UserError, match="no such image, folder or video: nowhere"):
        find_inputs([str(folder), "nowhere"])
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no images"):
        find_inputs([str(folder / "empty")])


def test_images_that_cannot_be_read_are_noted(folder):
    unread: list[str] = []
    files, _ = find_inputs([str(folder)])
    read = dict(read_images(files, unread))
    assert [file.name for file in read] == ["a.png", "b.JPG"]
    assert (read[files[0]] == 200).all() and read[files[0]].shape == (20, 30, 3)
    assert len(unread) == 1 and "c.png is no image" in unread[0]


def test_frames_have_names_in_order(folder):
    clip = folder / "clip.avi"
    found = list(frames(clip))
    assert frame_count(clip) == len(found) == 3
    assert [name for name, _ in found] == ["clip.avi#0", "clip.avi#1", "clip.avi#2"]
    assert [round(pixels.mean(), -1) for _, pixels in found] == [10, 100, 200]
    with pytest.raises(UserError, match="notes.txt is no video that OpenCV can read"):
        frame_count(folder / "notes.txt")


def test_batches_end_with_a_shorter_one():
    assert list(batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batches([], 2)) == []
