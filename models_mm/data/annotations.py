"""Annotation files as training, evaluation, browsing and analysis read them."""

import contextlib
import io
import warnings

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO

from models_mm.data.fields import Problem, field_problems, mask_fault, of_annotation, read, used_categories
from models_mm.errors import UserError


class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, whose annotations are what they must be before they are used."""

    def __init__(self, ann_file: str, pipeline: list, *args, **kwargs):
        self.masks = masks_of(pipeline)
        self.test_mode = kwargs.get("test_mode", False)
        super().__init__(ann_file, pipeline, *args, **kwargs)

    def load_annotations(self, ann_file: str) -> list[dict]:
        """The images' entries; the annotations go to ``self.coco``.

        Raises:
            UserError: as :func:`load`.
        """
        self.coco = indexed(load(ann_file, self.CLASSES, self.masks, self.test_mode))
        self.cat_ids = self.coco.get_cat_ids(cat_names=self.CLASSES)
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        self.img_ids = self.coco.get_img_ids()
        infos = self.coco.load_imgs(self.img_ids)
        for info in infos:
            info["filename"] = info["file_name"]
        return infos


def indexed(content: dict) -> COCO:
    """Annotations that are already read, as mmdet's ``COCO``."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    coco.img_ann_map, coco.cat_img_map = coco.imgToAnns, coco.catToImgs
    return coco


def load(
    ann_file: str,
    classes: tuple[str, ...] | None = None,
    masks: str | None = None,
    testing: bool = False,
) -> dict:
    """The content of an annotation file, in which every field is what it must be.

    A missing ``iscrowd`` is filled in. A mask that cannot be used is left out with a warning where
    none is needed.

    Args:
        ann_file: annotations in COCO's format.
        classes: the names that are used.
        masks: what the training makes of masks: nothing, ``"pixels"`` or ``"polygons"``.
        testing: there need not be annotations.

    Raises:
        UserError: what is wrong first, by file, entry and field.
    """
    content = read(ann_file, testing)
    for problem in field_problems(content, classes):
        raise refusal(ann_file, problem)
    left_out = []
    images = {image["id"]: image for image in content["images"]}
    used = used_categories(content, classes) if masks else frozenset()
    for number, annotation in enumerate(content.get("annotations", ())):
        crowd = annotation["iscrowd"] = int(annotation.get("iscrowd", 0))
        image, mask = images.get(annotation["image_id"]), annotation.get("segmentation")
        needed = not crowd and annotation["category_id"] in used
        if image is None or not (needed or mask):  # nobody looks at it
            continue
        reason = mask_fault(mask, image, masks if needed else "pixels")
        if reason is not None:
            problem = of_annotation(number, annotation, "segmentation", reason)
            if needed:
                raise refusal(ann_file, problem)
            del annotation["segmentation"]
            left_out.append(problem)
    if left_out:
        first = left_out[0]
        warnings.warn(
            f"{ann_file}: {len(left_out)} masks cannot be used and are left out, the first: "
            f"{first.where}: {first.detail}",
            stacklevel=2,
        )
    return content


def refusal(ann_file: str, problem: Problem) -> UserError:
    """The error of a file with a problem that nothing can be done about."""
    return UserError(
        f"{ann_file}: {problem.where}: {problem.detail} (tools/check_dataset.py lists all problems)"
    )


def masks_of(pipeline) -> str | None:
    """What a pipeline of a config makes of masks: nothing, ``"pixels"`` or ``"polygons"``."""
    for step in pipeline or ():
        if isinstance(step, dict) and step.get("with_mask"):
            return "pixels" if step.get("poly2mask", True) else "polygons"
    return None
