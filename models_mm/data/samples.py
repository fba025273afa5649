"""Training samples whose randomness is their own, and of which a bad one is replaced.

What is drawn for a sample (flips, scales, the replacement of a bad image) depends on the seed of
the run, the epoch and the sample's place in it, and on nothing else: neither on the number of data
workers nor on what they did before. A run can therefore go on at any iteration.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import BatchSampler, Dataset, Sampler

from models_mm.randomness import seeded
from models_mm.errors import UserError

ATTEMPTS = 20  # replacements of one sample before it is taken that nothing can be read


class Batches(Sampler):
    """The batches of a rank, from any one on; each index comes with the seeds of its sample.

    Args:
        batches: mmdet's batches of indices.
        seed: the run's.
        rank: this process's.
        endless: ``batches`` never ends (iteration-based runs) and can be gone through once.
    """

    def __init__(self, batches: BatchSampler, seed: int, rank: int, endless: bool):
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.endless = endless
        self.epoch = self.first = 0

    def start(self, epoch: int, first: int) -> None:
        """Go to a batch of an epoch."""
        self.epoch, self.first = epoch, first
        for sampler in (self.batches, getattr(self.batches, "sampler", None)):
            if hasattr(sampler, "set_epoch") and not self.endless:
                sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        if self.endless:
            batches = self.batches
        else:
            with seeded(self.seed, self.epoch):  # mmdet shuffles with NumPy's global state
                batches = list(self.batches)
        for number, batch in enumerate(islice(batches, self.first, None), self.first):
            place = (self.seed, self.rank, self.epoch, number)
            yield [(int(index), (*place, i)) for i, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class Samples(Dataset):
    """A training data set by the indices and seeds that :class:`Batches` gives.

    An image that cannot be read or transformed is replaced by another one of its group; the
    sample's ``img_metas`` name it under ``"replaced"``, as pairs of name and reason.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        # hooks ask for the classes and change pipelines
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, draw: tuple[int, tuple[int, ...]]) -> dict:
        index, seeds = draw
        replaced = []
        with seeded(*seeds):
            while len(replaced) < ATTEMPTS:
                try:
                    sample = self.dataset[index]
                    break
                except MemoryError:
                    raise
                except Exception as error:  # whatever a library makes of a broken file
                    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                    reason = f"{name}{error}".splitlines()[0]
                    replaced.append([name_of(self.dataset, index), reason])
                    flags = self.dataset.flag
                    index = int(np.random.choice(np.flatnonzero(flags == flags[index])))
            else:
                name, reason = replaced[-1]
                raise UserError(
                    f"{ATTEMPTS} images in a row cannot be used, the last one {name} ({reason}); "
                    "tools/check_dataset.py lists all of them"
                )
        if replaced:
            metas(sample)[0]["replaced"] = replaced
        return sample


def metas(batch: dict) -> list[dict]:
    """The ``img_metas`` of a sample or of a batch on its way to the model."""
    found = batch.get("img_metas")
    while not isinstance(found, dict):
        if found is None or (isinstance(found, list) and not found):
            return [{}]
        if isinstance(found, list) and isinstance(found[0], dict):
            return found
        found = found[0] if isinstance(found, list) else found.data
    return [found]


def name_of(dataset: Dataset, index: int) -> str:
    """The file of a sample, through mmdet's wrappers of data sets."""
    if hasattr(dataset, "cumulative_sizes"):
        part = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        before = dataset.cumulative_sizes[part - 1] if part else 0
        return name_of(dataset.datasets[part], index - before)
    if hasattr(dataset, "repeat_indices"):
        return name_of(dataset.dataset, dataset.repeat_indices[index])
    if hasattr(dataset, "times"):
        return name_of(dataset.dataset, index % len(dataset.dataset))
    infos = getattr(dataset, "data_infos", None)
    return str(infos[index]["filename"]) if infos else f"sample {index}"
