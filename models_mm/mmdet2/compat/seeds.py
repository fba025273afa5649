"""``sync_random_seed`` of mmdet 2.28 on machines without a GPU, where its default device is none.

The batches of iteration-based runs are shared out by it.
"""

import functools

from mmdet.core.utils import dist_utils
from mmdet.utils import get_device

from models_mm.mmdet2.compat.replace import replace_everywhere

_sync_random_seed = dist_utils.sync_random_seed


@functools.wraps(_sync_random_seed)
def sync_random_seed(seed=None, device=None):
    """The same seed on all ranks, sent over the device that the processes use."""
    return _sync_random_seed(seed, device or get_device())


def apply() -> None:
    replace_everywhere(_sync_random_seed, sync_random_seed)
