"""Training samples that are seeded one by one; a sample that cannot be read is replaced.

The random choices for a sample (flips, scales, the replacement of a bad image) depend only on the
seed of the run, the rank, the epoch, and the position of the sample in it. They depend neither on
the number of data workers nor on the samples before. A run can therefore resume at any iteration.
"""

import traceback
from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import BatchSampler, Dataset, Sampler

from models_mm.errors import UserError
from models_mm.randomness import seeded

ATTEMPTS = 20  # images that are tried for one sample before the run ends
SeededIndex = tuple[int, tuple[int, ...]]  # the index of an image, and the seeds of its sample


class SeededBatches(Sampler):
    """The batches of one rank, from any batch on; each index comes with the seeds of its sample.

    Args:
        batches: batches of indices, which are shuffled with NumPy's global random state.
        seed: of the run.
        rank: of this process.
        endless: ``batches`` never ends (iteration-based runs) and can be iterated over once.
    """

    def __init__(self, batches: BatchSampler, seed: int, rank: int, endless: bool):
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.endless = endless
        self.epoch = self.first = 0

    def start(self, epoch: int, first: int) -> None:
        """Begin the next iteration over the batches at batch ``first`` of an epoch."""
        self.epoch, self.first = epoch, first
        for sampler in (self.batches, getattr(self.batches, "sampler", None)):
            if hasattr(sampler, "set_epoch") and not self.endless:
                sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        if self.endless:
            batches = self.batches
        else:
            with seeded(self.seed, self.epoch):
                batches = list(self.batches)
        for number, batch in enumerate(islice(batches, self.first, None), self.first):
            place = (self.seed, self.rank, self.epoch, number)
            yield [(int(index), (*place, i)) for i, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class SeededSamples(Dataset):
    """A training data set that is indexed with the pairs of index and seeds of
    :class:`SeededBatches`.

    An image that cannot be read or transformed is replaced by another image of its group (images of
    similar aspect ratio). The ``img_metas`` of the sample list the replaced images under
    ``"replaced"``, as pairs of name and reason.

    Args:
        dataset: has ``flag``, the group of each image.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str):
        # hooks read attributes such as CLASSES and change pipelines
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, seeded_index: SeededIndex) -> dict:
        index, seeds = seeded_index
        replaced = []
        with seeded(*seeds):
            while len(replaced) < ATTEMPTS:
                try:
                    sample = self.dataset[index]
                    break
                except MemoryError:
                    raise
                except Exception as error:  # a broken file can raise errors of any type
                    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                    # an assertion without words is quoted
                    why = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
                    reason = f"{name}{why}".splitlines()[0]
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
            image_metas(sample)[0]["replaced"] = replaced
        return sample


def image_metas(batch: dict) -> list[dict]:
    """The ``img_metas`` of a sample or of a batch, taken out of their containers."""
    found = batch.get("img_metas")
    while not isinstance(found, dict):
        if found is None or (isinstance(found, list) and not found):
            return [{}]
        if isinstance(found, list) and isinstance(found[0], dict):
            return found
        found = found[0] if isinstance(found, list) else found.data
    return [found]


def name_of(dataset: Dataset, index: int) -> str:
    """The file name of a sample; wrappers that concatenate or repeat data sets are followed."""
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
