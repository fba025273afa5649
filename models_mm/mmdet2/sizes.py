"""The image size of a pipeline: find it, and bring all sizes in it to another one."""

from collections.abc import Iterator


def transforms(pipeline: object) -> Iterator[dict]:
    """All transforms of a pipeline, those inside of others included."""
    if isinstance(pipeline, dict):
        if "type" in pipeline:
            yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for item in pipeline:
            yield from transforms(item)


def size_of(pipeline: object) -> tuple[int, int] | None:
    """Longer and shorter side of the images that a pipeline gives, by its largest ``img_scale``."""
    scales = [s for t in transforms(pipeline) for s in pairs(t.get("img_scale"))]
    if not scales:
        return None
    widest = max(scales, key=lambda scale: scale[0] * scale[1])
    return max(widest), min(widest)


def pairs(scale: object) -> list[tuple]:
    """The scales of an ``img_scale``: one, or a list of them."""
    if not isinstance(scale, (list, tuple)) or not scale:
        return []
    return [tuple(s) for s in scale] if isinstance(scale[0], (list, tuple)) else [tuple(scale)]


def change_size(pipeline: object, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Bring all sizes of a pipeline to another one, in place; crops change in proportion.

    Args:
        pipeline: a list of transforms.
        old: longer and shorter side in pixels of the pipeline's images.
        new: those that they are to have.
    """
    long, short = new[0] / old[0], new[1] / old[1]

    def scaled(scale: tuple) -> tuple:
        if sorted(scale) == sorted(old):
            return new if scale[0] >= scale[1] else new[::-1]
        if scale[0] >= scale[1]:
            return pixels(scale[0] * long), pixels(scale[1] * short)
        return pixels(scale[0] * short), pixels(scale[1] * long)

    for transform in transforms(pipeline):
        scale = transform.get("img_scale")
        if pairs(scale):
            several = isinstance(scale[0], (list, tuple))
            transform["img_scale"] = [scaled(s) for s in pairs(scale)] if several else scaled(scale)
        if transform["type"] == "RandomCrop" and not is_relative(transform):
            transform["crop_size"] = tuple(pixels(s * short) for s in transform["crop_size"])
        if transform["type"] == "Pad" and transform.get("size"):
            transform["size"] = scaled(tuple(transform["size"]))


def is_relative(crop: dict) -> bool:
    """Whether a crop is given as shares of the image."""
    return str(crop.get("crop_type", "absolute")).startswith("relative")


def pixels(length: float) -> int:
    """A length in whole pixels."""
    return max(1, round(length))
