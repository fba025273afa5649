"""End a training that does not become better: ``early_stopping`` of a config.

The rule is that of Lightning's callback of this name: an evaluation counts as better if it exceeds
the best one so far by more than ``min_delta``; after ``patience`` evaluations in a row that do not,
or after a value that is no finite number, the run ends.

What is known so far is in ``meta`` of the checkpoints. A checkpoint is written before the
evaluation of its epoch, and a run that goes on from it makes this evaluation first; so it ends
where it would have ended without the interruption.
"""

import math

from mmcv.runner import BaseRunner

from models_mm.distributed import ranks
from models_mm.values import is_number

BETTER = {"max": 1, "min": -1}  # the sign of a change to a better value


class EarlyStopping:
    """Decides after each evaluation whether the run ends, on all ranks alike.

    Args:
        patience: evaluations in a row without a better value after which the run ends.
        monitor: the name of the value among those of the evaluation.
        min_delta: a value is better if it exceeds the best one by more than this.
        mode: whether greater (``"max"``) or smaller (``"min"``) values are better.
    """

    def __init__(
        self,
        patience: int = 3,
        monitor: str = "bbox_mAP",
        min_delta: float = 0.0,
        mode: str = "max",
    ):
        self.patience = patience
        self.monitor = monitor
        self.min_delta = min_delta
        self.mode = mode

    def after_evaluation(self, runner: BaseRunner, values: dict) -> None:
        """Count an evaluation, and end the run if it was the last one to wait for.

        Args:
            runner: the training; its length is shortened to where it is.
            values: of the evaluation, on rank 0. If the detector found nothing, it has no values,
                which counts as not better.
        """
        value = ranks.from_rank_0(values.get(self.monitor))
        messages = runner.meta.setdefault("hook_msgs", {})
        before = messages.get("early_stopping")
        if not is_state(before):
            before = {"best": None, "waited": 0, "iter": -1}
        if before["iter"] == runner.iter:  # the checkpoint has counted this evaluation already
            now = before
        elif value is not None and self.is_better(value, before["best"]):
            now = {"best": value, "waited": 0, "iter": runner.iter}
        else:
            now = {**before, "waited": before["waited"] + 1, "iter": runner.iter}
        messages["early_stopping"] = now
        finite = value is None or math.isfinite(value)
        if now["waited"] >= self.patience or not finite:
            best = "nothing found" if now["best"] is None else f"best {now['best']:.4f}"
            reason = f"not better for {now['waited']} evaluations" if finite else f"is {value}"
            runner.logger.info(f"early stopping: {self.monitor} {reason} ({best}): the run ends")
            end_here(runner)

    def is_better(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best one so far."""
        sign = BETTER[self.mode]
        if not math.isfinite(value):
            return False
        return best is None or sign * value - self.min_delta > sign * best


def end_here(runner: BaseRunner) -> None:
    """Make the epoch or iteration that is complete, and not yet counted, the last one of the run.

    After an epoch its checkpoint is there: it is written before the evaluation.
    """
    if runner.by_epoch:
        runner._max_epochs = runner.epoch + 1
    else:
        runner._max_iters = runner.iter + 1
        runner.checkpoints.at_early_end(runner)


def is_state(value: object) -> bool:
    """Whether a value of a checkpoint is what :meth:`EarlyStopping.after_evaluation` keeps."""
    return (
        isinstance(value, dict)
        and value.keys() == {"best", "waited", "iter"}
        and all(is_number(value[name]) for name in ("waited", "iter"))
        and (value["best"] is None or is_number(value["best"]))
    )
