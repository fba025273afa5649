"""``np.int`` and ``np.float``: removed in NumPy 1.24, used by mmcv 1.7 and mmdet 2.28.

mmdet's class-balanced and VOC data sets (``CustomDataset.get_cat_ids``), OpenImages and the
IoU-balanced sampler still say ``np.int``; mmcv's pixel grouping says ``np.float``. Both were
aliases of the builtins.
"""

import numpy as np


def apply() -> None:
    for name, builtin in (("int", int), ("float", float)):
        if name not in np.__dict__:
            setattr(np, name, builtin)
