"""What is in a data set, in a few lines."""

from collections import Counter

from models_mm.data.fields import shown
from models_mm.data.formats.labels import DataSet, Part, named


def summary(data: DataSet) -> list[str]:
    """Lines with the images, objects, sizes and masks of each part, and a table of the classes."""
    lines = [f"{named(data.source)} ({data.format}): {count(len(data.classes), 'class')}"]
    lines += [f"  {name}: {of_part(part)}" for name, part in data.parts.items()]
    counts = {
        name: Counter(thing["class"] for thing in part.objects())
        for name, part in data.parts.items()
    }
    width = max(map(len, ("objects", *data.classes)))
    lines.append(f"  {'objects':{width}}" + "".join(f"{name:>9}" for name in counts))
    for label in data.classes:
        numbers = "".join(f"{counted[label]:>9}" for counted in counts.values())
        lines.append(f"  {shown(label):{width}}{numbers}")
    return lines


def of_part(part: Part) -> str:
    """Images, their sizes, and objects of a part."""
    if not part.images:
        return "no images"
    sizes = sorted(((i.width, i.height) for i in part.images), key=lambda size: size[0] * size[1])
    small, large = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
    objects = part.objects()
    crowds = sum(thing["iscrowd"] for thing in objects)
    masks = sum("segmentation" in thing for thing in objects)
    empty = sum(not image.objects for image in part.images)
    with_masks = "all with masks" if masks == len(objects) else f"{masks} with masks"
    said = [
        f"{count(len(part.images), 'image')} of {small}{f' to {large}' if large != small else ''}",
        count(len(objects), "object"),
        with_masks if masks else "boxes only",
    ]
    said += [f"{crowds} of them crowds or difficult"] * bool(crowds)
    said += [f"{count(empty, 'image')} without objects"] * bool(empty)
    return ", ".join(said)


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
