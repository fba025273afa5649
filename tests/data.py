"""Small data sets, and the options that make a config read them."""

import json
import sys
from pathlib import Path

# names of COCO's classes for the drawn categories: the configs know 80 classes by name
COCO_NAMES = {
    "ellipse": "frisbee",
    "rectangle": "book",
    "triangle": "pizza",
    "star": "kite",
    "cross": "chair",
}


def draw(folder: Path, train: int, val: int, size: str = "128x96") -> Path:
    """A drawn data set in COCO layout."""
    tools = str(Path(__file__).parents[1] / "tools")
    if tools not in sys.path:
        sys.path.append(tools)
    import make_demo_coco

    arguments = [str(folder), "--train", str(train), "--val", str(val), "--size", size]
    assert not make_demo_coco.main(arguments)
    return folder


def draw_coco(folder: Path, train: int, val: int) -> Path:
    """The same with categories of COCO's names."""
    draw(folder, train, val)
    for file in (folder / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["name"] = COCO_NAMES[category["name"]]
        file.write_text(json.dumps(content))
    return folder


def data_options(data: Path, *more: str) -> list[str]:
    """``--cfg-options`` that make a config read a data set, and train for one epoch."""
    paths = [
        f"data.{split}.{key}={data}/{value}"
        for split, year in (("train", "train2017"), ("val", "val2017"), ("test", "val2017"))
        for key, value in (
            ("ann_file", f"annotations/instances_{year}.json"),
            ("img_prefix", f"{year}/"),
        )
    ]
    return ["--cfg-options", *paths, "runner.max_epochs=1", *more]
