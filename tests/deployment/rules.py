"""Descriptions of exported detectors."""

from models_mm.deployment.description import Description


def rule(**changes) -> Description:
    """A description, with changes."""
    settings = dict(
        classes=("cat", "dog"),
        scale=(64, 48),
        keep_ratio=True,
        interpolation="bilinear",
        backend="cv2",
        divisor=32,
        shape=None,
        mean=(128.0, 120.0, 100.0),
        std=(64.0, 60.0, 50.0),
        to_rgb=True,
        dtype="uint8",
        max_det=10,
        score_thr=0.05,
        mask_thr=0.5,
        precision="fp32",
        versions={"torch": "2.14.0"},
        checkpoint="0" * 64,
        config="model = dict()",
    )
    return Description(**{**settings, **changes})
