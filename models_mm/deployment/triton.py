"""The folder of an exported detector that NVIDIA's Triton Inference Server reads.

    REPOSITORY/detector/config.pbtxt
    REPOSITORY/detector/1/model.onnx

Format: https://github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

import json
import shutil
from pathlib import Path

from models_mm.deployment.exported import ExportedModel
from models_mm.outputs import new_folder

MAX_BATCH = 16
TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def write_repository(repository: Path, file: Path) -> Path:
    """Add an exported detector to a model repository, under the name of its file.

    Args:
        repository: the folder of all models.
        file: the ONNX file.

    Returns:
        The folder of the detector.

    Raises:
        UserError: the repository has a detector of this name, or cannot be written.
    """
    folder = repository / file.stem
    with new_folder(folder) as made:
        (made / "1").mkdir()
        shutil.copyfile(file, made / "1/model.onnx")
        (made / "config.pbtxt").write_text(configuration(file))
    return folder


def configuration(file: Path) -> str:
    """The text of ``config.pbtxt`` for an exported detector."""
    session = ExportedModel(file, ["cpu"]).session
    name = json.dumps(file.stem, ensure_ascii=False)  # the same escapes as in protobuf's text
    text = f'name: {name}\nbackend: "onnxruntime"\nmax_batch_size: {MAX_BATCH}\n'
    for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for value in values:
            # the batch is not among the dimensions; a free one is -1, a single number is [1]
            sides = [side if isinstance(side, int) else -1 for side in value.shape[1:]]
            reshape = "" if sides else " reshape: { shape: [ ] }"
            text += (
                f'{kind} [ {{ name: "{value.name}" data_type: {TYPES[value.type]} '
                f"dims: {sides or [1]}{reshape} }} ]\n"
            )
    # the server waits for nothing, but takes requests of equal size that have come meanwhile
    return text + "dynamic_batching { }\n"
