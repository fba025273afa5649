"""Names and counts the images that had to be replaced, and ends a run that has too many."""

from mmcv.runner import HOOKS, Hook

from models_mm.data.sampling import image_metas
from models_mm.errors import UserError


@HOOKS.register_module()
class BadImagesHook(Hook):
    """Report what :class:`models_mm.data.sampling.SeededSamples` has replaced.

    Args:
        images: number of images in the data set.
        limit: share of them that may be bad (at least one may), or from 1 on their number; 0: none.
    """

    def __init__(self, images: int, limit: float = 0.01):
        self.images = images
        self.limit = max(1, int(limit * images)) if 0 < limit < 1 else limit
        self.found: dict[str, str] = {}

    def before_train_iter(self, runner) -> None:
        for image in image_metas(runner.data_batch):
            for name, reason in image.pop("replaced", ()):
                if name not in self.found:
                    self.found[name] = reason
                    # mmcv shows errors of every rank, and warnings of the first only
                    runner.logger.error(
                        f"bad image {name} replaced ({reason}); {len(self.found)} so far on "
                        f"rank {runner.rank}"
                    )
        if len(self.found) > self.limit:
            some = "".join(f"\n  {name}: {reason}" for name, reason in list(self.found.items())[:5])
            raise UserError(
                f"{len(self.found)} of {self.images} images cannot be used (faults.bad_images "
                f"allows {self.limit:g}), among them{some}\n  tools/check_dataset.py lists them all"
            )
