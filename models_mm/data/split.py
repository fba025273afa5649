"""Split labelled images into a part for training and a part for validation."""

import random
from collections import Counter, defaultdict

from models_mm.data.formats.labels import DataSet, LabelledImage, Part, named
from models_mm.errors import UserError


def split(data: DataSet, share: float = 0.2, seed: int = 0) -> DataSet:
    """Split the training images, so that each class has about the same share in both parts.

    The result depends on the names of the images, their classes, the share and the seed only. Each
    part gets at least one image. A class with two or more images is in both parts if the other
    classes of its images allow it; one with a single image is in the training part.

    Args:
        data: without ``val``.
        share: of the images for validation, more than 0 and less than 1.
        seed: another seed gives another split.

    Returns:
        The data set with a new ``train`` and ``val``.

    Raises:
        UserError: the data set has a ``val``, or fewer than two images.
    """
    name, part = named(data.source), data.parts["train"]
    if "val" in data.parts:
        number = len(data.parts["val"].images)
        raise UserError(f"{name} has a val of {number} images: there is nothing to split off")
    if len(part.images) < 2:
        raise UserError(f"{name} has a single image: two or more can be split")
    chosen = choose({image.name: classes_of(image) for image in part.images}, share, seed)
    parts = dict(data.parts)
    for new, wanted in (("train", False), ("val", True)):
        images = [image for image in part.images if (image.name in chosen) is wanted]
        parts[new] = Part(part.folder, part.file, images)
    notes = [
        *data.notes,
        f"val is {len(parts['val'].images)} of the {len(part.images)} images of train (share "
        f"{share:g}, seed {seed}, stratified by class)",
    ]
    return DataSet(data.source, data.format, data.classes, parts, notes, data.faults)


def classes_of(image: LabelledImage) -> frozenset[str]:
    """The classes of an image; one without objects has the class without name."""
    return frozenset(
        thing["class"] for thing in image.objects if not thing["iscrowd"]
    ) or frozenset({""})


def choose(images: dict[str, frozenset[str]], share: float, seed: int) -> set[str]:
    """The names of the images for validation.

    The rarest class chooses first. An image is taken only if each of its classes keeps an image for
    training and, unless a class would have none at all, needs one for validation.

    Args:
        images: the classes of each image, two images or more.
        share: of the images that are taken.
        seed: of the order in which images are considered.
    """
    names = sorted(images)
    random.Random(seed).shuffle(names)
    total = Counter(label for classes in images.values() for label in classes)
    wanted = {label: min(max(round(share * n), 1), n - 1) for label, n in total.items()}
    taken: Counter[str] = Counter()
    chosen: set[str] = set()

    def take(name: str, needed: bool) -> None:
        """Take an image if its classes allow it; with ``needed``, if all of them need it."""
        classes = images[name]
        if name in chosen or any(taken[label] + 1 >= total[label] for label in classes):
            return
        if needed and any(taken[label] >= wanted[label] for label in classes):
            return
        chosen.add(name)
        taken.update(classes)

    with_label = defaultdict(list)
    for name in names:
        for label in images[name]:
            with_label[label].append(name)
    for label in sorted(total, key=lambda label: (total[label], label)):
        for needed, least in ((True, wanted[label]), (False, min(wanted[label], 1))):
            for name in with_label[label]:
                if taken[label] >= least:
                    break
                take(name, needed)
    number = min(max(round(share * len(names)), 1), len(names) - 1)
    for name in names:
        if len(chosen) < number:
            take(name, needed=False)
    return chosen or {names[0]}
