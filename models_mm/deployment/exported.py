"""An exported detector, run by ONNX Runtime."""

from pathlib import Path

import numpy as np

from models_mm.data.images import decode_upright, regular_file
from models_mm.deployment.description import Description, read_description
from models_mm.deployment.masks import paste
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.errors import UserError, did_you_mean
from models_mm.values import TEXT, many, whole

# What --providers and --device call the providers of ONNX Runtime.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
THREADS = whole(1, 256)  # ONNX Runtime hangs with thousands


class ExportedModel:
    """The file of an exported detector; several threads may use it at the same time.

    Args:
        file: the ONNX file.
        providers: of :data:`PROVIDERS`, the first one that can run a part of the graph does
            (default: a GPU if ONNX Runtime has one, else the CPU).
        threads: of the CPU (default: all cores).

    Attributes:
        description: what the file says of itself.
        classes: the names of its classes.
        device: where it runs.

    Raises:
        UserError: ONNX Runtime or the file is missing, the file is not of `models_mm export`, a
            provider is not there, or ``threads`` is no number from 1 to 256.
    """

    decoder = staticmethod(decode_upright)

    def __init__(
        self, file: str | Path, providers: list[str] | None = None, threads: int | None = None
    ):
        file = str(file)
        regular_file(file, "exported detector")
        try:
            import onnxruntime  # only exported detectors need it
        except ImportError as error:
            raise UserError(
                f"{file} needs ONNX Runtime, which is not installed: `pip install onnxruntime`"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        if threads is not None:
            THREADS.check("threads", threads)
            options.intra_op_num_threads = threads
        chosen = provider_names(providers, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(file, options, chosen)
        except Exception as error:  # of several types that share no base
            raise UserError(f"{file} cannot be run: {reason(error)}") from error
        if providers and self.session.get_providers()[0] != chosen[0]:
            raise UserError(
                f"provider {providers[0]} cannot be used on this machine: its device or its "
                "libraries are missing"
            )
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.description: Description = read_description(metadata, file)
        self.classes = self.description.classes
        self.device = self.session.get_providers()[0]
        outputs = [output.name for output in self.session.get_outputs()]
        if outputs != self.description.outputs:
            raise UserError(
                f"{file} has the outputs {', '.join(outputs)} and not "
                f"{', '.join(self.description.outputs)}: export it again"
            )

    @property
    def with_mask(self) -> bool:
        """Whether it finds masks."""
        return self.description.mask_thr is not None

    def run(self, photos: list[np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of the graph by their names.

        Args:
            photos: BGR (H, W, 3) of uint8.

        Raises:
            UserError: a photo cannot be resized, or ONNX Runtime fails, such as without memory.
        """
        inputs = graph_inputs(photos, self.description)
        try:
            values = self.session.run(None, inputs)
        except Exception as error:  # of several types that share no base
            shape = "x".join(map(str, inputs["images"].shape))
            raise UserError(f"the exported detector fails with {shape}: {reason(error)}") from error
        return dict(zip(self.description.outputs, values, strict=True))

    def results(self, photos: list[np.ndarray], score_thr: float = 0.0) -> list:
        """The objects in photos, in the form of :mod:`models_mm.evaluation.results`.

        Args:
            photos: BGR (H, W, 3) of uint8.
            score_thr: the lowest score of an object.

        Raises:
            UserError: as :meth:`run` and :func:`check_outputs`.
        """
        outputs = self.run(photos)
        check_outputs(outputs, len(photos), self.description)
        return [self._result(outputs, i, photo, score_thr) for i, photo in enumerate(photos)]

    def _result(self, outputs: dict, image: int, photo: np.ndarray, score_thr: float):
        count = int(outputs["count"][image])
        scores = outputs["scores"][image, :count]
        kept = np.flatnonzero(scores >= score_thr)
        labels, boxes = outputs["labels"][image][kept], outputs["boxes"][image][kept]
        rows = np.concatenate([boxes, scores[kept, None]], 1).astype(np.float32)
        classes = range(len(self.description.classes))
        by_class = [rows[labels == label] for label in classes]
        threshold = self.description.mask_thr
        if threshold is None:
            return by_class
        masks: list[list[np.ndarray]] = [[] for _ in classes]
        for label, box, mask in zip(labels, boxes, outputs["masks"][image][kept], strict=True):
            masks[label].append(paste(mask, box, *photo.shape[:2], threshold))
        return by_class, masks


def check_outputs(outputs: dict[str, np.ndarray], images: int, rule: Description) -> None:
    """Refuse outputs that do not fit the description: of a file that somebody has changed.

    Raises:
        UserError: an output has another shape or type, or the objects have labels without a class,
            or boxes that are no numbers, which weights that are damaged also give.
    """
    rows = (images, rule.max_det)
    forms = {
        "boxes": ("f", (*rows, 4)),
        "scores": ("f", rows),
        "labels": ("i", rows),
        "count": ("i", (images,)),
    }
    if rule.mask_thr is not None:
        forms["masks"] = ("f", (*rows, *outputs["masks"].shape[-2:]))
    labels, count = outputs["labels"], outputs["count"]
    if not (
        all((outputs[name].dtype.kind, outputs[name].shape) == forms[name] for name in forms)
        and all(outputs[name].size for name in forms)
        and 0 <= labels.min() <= labels.max() < len(rule.classes)
        and 0 <= count.min() <= count.max() <= rule.max_det
    ):
        raise UserError("the exported detector's outputs do not fit its metadata: export it again")
    objects = np.arange(rule.max_det) < count[:, None]
    if not all(np.isfinite(outputs[name][objects]).all() for name in ("boxes", "scores")):
        raise UserError("the exported detector finds boxes or scores that are no numbers")


def reason(error: Exception) -> str:
    """The message of ONNX Runtime in one line."""
    return " ".join(str(error).split())[:200]


def provider_names(wanted: list[str] | None, there: list[str]) -> list[str]:
    """The names that ONNX Runtime knows, for those of :data:`PROVIDERS`.

    Args:
        wanted: names; ``None`` chooses a GPU if there is one.
        there: what this ONNX Runtime can use.

    Raises:
        UserError: there is no such provider.
    """
    if wanted is None:
        return [PROVIDERS[name] for name in ("cuda", "cpu") if PROVIDERS[name] in there]
    many(TEXT).check("providers", wanted)
    for name in wanted:
        if name not in PROVIDERS:
            hint = did_you_mean(name, PROVIDERS)
            raise UserError(f"provider {name!r}: must be one of {', '.join(PROVIDERS)}{hint}")
        if PROVIDERS[name] not in there:
            able = ", ".join(known for known, full in PROVIDERS.items() if full in there)
            raise UserError(
                f"provider {name} is not part of the installed ONNX Runtime, which has {able} "
                f"(docs/deploy.md names the packages)"
            )
    return [PROVIDERS[name] for name in wanted]
