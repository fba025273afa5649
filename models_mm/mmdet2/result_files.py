"""Files of results, as ``tools/test.py --out`` writes them."""

import pickle
from pathlib import Path

import numpy as np

from models_mm.checkpoints.pickles import read_pickle
from models_mm.disk import replacing
from models_mm.errors import UserError, printable
from models_mm.evaluation.masks import check_mask
from models_mm.evaluation.results import check_results, masks_of


def load_results(file: str, dataset) -> list:
    """Read a file of results without running any code in it.

    Args:
        file: what ``tools/test.py --out`` wrote.
        dataset: the data set that was tested.

    Returns:
        One result per image (:mod:`models_mm.evaluation.results`).

    Raises:
        UserError: the file is missing, has no results, has the results of another data set, or has
            proposals.
    """
    if not Path(file).exists():
        raise UserError(f"results not found: {file} (tools/test.py --out FILE.pkl writes them)")
    try:
        results = read_pickle(Path(file))
    except Exception as error:  # a damaged pickle can raise errors of any type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{file} is not what tools/test.py --out writes ({printable(reason)})"
        ) from error
    try:
        check_results(results, len(dataset), len(dataset.CLASSES))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if isinstance(results[0], np.ndarray):
        raise UserError(f"{file} has proposals, which are of no class: there is nothing to draw")
    infos = getattr(dataset, "data_infos", None) or [{}] * len(results)
    for number, (result, info) in enumerate(zip(results, infos, strict=True)):
        try:
            for mask in masks_of(result):
                check_mask(mask, info.get("height"), info.get("width"))
        except ValueError as error:
            raise UserError(f"{file}: the result of image {number} {error}") from error
    return results


def write_results(results: list, file: str) -> None:
    """Write the results of all images for :func:`load_results`: the whole file or nothing."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as opened:
        pickle.dump(results, opened, protocol=4)
