"""How a test pipeline prepares photos, in the words of an exported detector."""

from collections.abc import Iterator

from models_mm.errors import UserError

# Transforms of a test pipeline that change no pixel.
IDLE = {"RandomFlip", "ImageToTensor", "DefaultFormatBundle", "Collect"}


def preparation(pipeline: list[dict]) -> dict:
    """How a test pipeline prepares photos, in the words of :class:`Description`.

    Raises:
        UserError: it has a transform that an exported file does not know.
    """
    if len(pipeline) != 2 or pipeline[1].get("type") != "MultiScaleFlipAug":
        raise unknown("it must be LoadImageFromFile and MultiScaleFlipAug")
    load, augmented = pipeline
    scales = augmented.get("img_scale")
    if isinstance(scales, list) and len(scales) == 1:
        scales = scales[0]
    if augmented.get("flip") or not (isinstance(scales, tuple) and len(scales) == 2):
        raise unknown("test-time augmentation: give flip=False and one img_scale")
    colours = load.get("color_type", "color"), load.get("channel_order", "bgr")
    if not str(load.type).startswith("LoadImageFrom") or colours != ("color", "bgr"):
        raise unknown(f"{load.type} (color_type={colours[0]!r}, channel_order={colours[1]!r})")
    steps = {step["type"]: {**step} for step in augmented.transforms}
    order = [step["type"] for step in augmented.transforms if step["type"] not in IDLE]
    if order not in (["Resize", "Normalize", "Pad"], ["Resize", "Normalize"]):
        raise unknown(f"its transforms must be Resize, Normalize, Pad, not {', '.join(order)}")
    resize, normalize = steps["Resize"], steps["Normalize"]
    pad = steps.get("Pad", {"size_divisor": 1})
    if set(pad) - {"type", "size_divisor"} or not pad.get("size_divisor"):
        raise unknown("Pad must have size_divisor alone")
    if set(resize) - {"type", "keep_ratio", "backend", "interpolation"}:
        raise unknown("Resize may have keep_ratio, backend and interpolation only")
    return dict(
        scale=tuple(scales),
        keep_ratio=bool(resize.get("keep_ratio", True)),
        interpolation=resize.get("interpolation", "bilinear"),
        backend=resize.get("backend", "cv2"),
        divisor=int(pad["size_divisor"]),
        mean=tuple(map(float, normalize["mean"])),
        std=tuple(map(float, normalize["std"])),
        to_rgb=bool(normalize.get("to_rgb", True)),
        dtype="float32" if load.get("to_float32") else "uint8",
    )


def pipelines(dataset) -> Iterator[list[dict]]:
    """The pipelines of a data set config, wrappers and lists included."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from pipelines(item)
    elif isinstance(dataset, dict):
        if "pipeline" in dataset:
            yield dataset["pipeline"]
        for key in ("dataset", "datasets"):
            yield from pipelines(dataset.get(key))


def unknown(what: str) -> UserError:
    """The error of a test pipeline that no exported detector can have."""
    return UserError(f"an exported detector cannot have this data.test.pipeline: {what}")
