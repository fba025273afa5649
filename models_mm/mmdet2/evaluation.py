"""Evaluation in one or several processes. The ranks wait for each other without a time limit."""

import inspect
import os
from collections.abc import Callable

import torch
from mmcv.runner import BaseRunner, TensorboardLoggerHook, get_dist_info
from mmdet.core import EvalHook
from mmdet.datasets import CustomDataset, VOCDataset
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from models_mm.checkpoints.runs import BEST
from models_mm.distributed import watchdog
from models_mm.errors import UserError, did_you_mean
from models_mm.evaluation.coco import ENGINES, check_engine
from models_mm.evaluation.masks import encode_result
from models_mm.messages import say
from models_mm.mmdet2.datasets import METRICS, PRECISIONS, RECALLS, STATISTICS, CocoDataset
from models_mm.mmdet2.early_stopping import EarlyStopping
from models_mm.mmdet2.gathering import gather_results
from models_mm.mmdet2.pictures import comparison, evenly
from models_mm.mmdet2.run_results import remember, write_results
from models_mm.mmdet2.snapshots import averaged_weights
from models_mm.randomness import untouched
from models_mm.values import FLAG, NONE, TEXT, Kind, either, is_number, many, whole

THRESHOLD = Kind("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
IN_FOLDER = Kind(
    "the beginning of a file name in a folder that exists",
    lambda value: TEXT.fits(value) and os.path.isdir(os.path.dirname(value) or "."),
)
# What the evaluations of mmdet's data sets take beside names.
OPTIONS = {
    "classwise": FLAG,
    "iou_thrs": either(NONE, many(THRESHOLD)),
    "iou_thr": either(THRESHOLD, many(THRESHOLD)),
    "proposal_nums": Kind(
        "a list of three whole numbers of 1 or more",
        lambda value: many(whole(1)).fits(value) and len(value) == 3,
    ),
    "jsonfile_prefix": either(NONE, IN_FOLDER),
}


def check_evaluation(dataset, model: nn.Module, options: dict, where: dict[str, str]) -> None:
    """Refuse before the first image what ``dataset.evaluate`` would refuse after the last one.

    Args:
        dataset: what is evaluated.
        model: the detector.
        options: of ``dataset.evaluate``; ``metric`` among them.
        where: what the user calls ``"metric"`` and what comes before other options.

    Raises:
        UserError: an unknown option, metric, item or engine; a metric that the model cannot give;
            annotations that cannot be evaluated.
    """
    kind, evaluate = type(dataset).__name__, type(dataset).evaluate
    known = inspect.signature(evaluate).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for key in options:
        if key not in known and not takes_any:
            hint = did_you_mean(key, known)
            raise UserError(f"{where['option']}{key}: {kind}'s evaluation has no such option{hint}")
        if key in OPTIONS:
            OPTIONS[key].check(where["option"] + key, options[key])
    choices = {}  # other data sets and wrappers have metrics of their own
    if evaluate is CocoDataset.evaluate:
        choices = {"metric": METRICS, "metric_items": tuple(STATISTICS), "engine": ENGINES}
    elif evaluate in (CustomDataset.evaluate, VOCDataset.evaluate):
        choices = {"metric": ("mAP", "recall")}
    for key, names in choices.items():
        values = options.get(key) or ()
        either(NONE, TEXT, many(TEXT)).check(
            where.get(key, where["option"] + key), options.get(key)
        )
        for value in [values] if isinstance(values, str) else values:
            if value not in names:
                name = where.get(key, where["option"] + key)
                raise UserError(
                    f"{name} {value}: unknown {key} for {kind}; known: {', '.join(names)}"
                )
            if value == "segm" and not model.with_mask:
                raise UserError(
                    f"{where['metric']} segm: {type(model).__name__} predicts boxes only"
                )
    if evaluate is CocoDataset.evaluate:
        check_engine(options.get("engine"))
        metrics = options.get("metric", "bbox")
        dataset.check_truth([metrics] if isinstance(metrics, str) else metrics)


def check_best(
    dataset, best: str | None, options: dict, where: str = "evaluation.save_best"
) -> None:
    """Refuse the name of a value that COCO's evaluation with these options will not return.

    Args:
        dataset: what is evaluated.
        best: the name.
        options: of ``dataset.evaluate``.
        where: the setting that has the name.

    Raises:
        UserError: names what it will return.
    """
    if best in (None, "auto") or type(dataset).evaluate is not CocoDataset.evaluate:
        return
    metric, items = options.get("metric", "bbox"), options.get("metric_items")
    items = [items] if isinstance(items, str) else items
    names: list[str] = []
    for name in [metric] if isinstance(metric, str) else metric:
        if name == "proposal_fast":
            names += [f"AR@{number}" for number in options.get("proposal_nums", (100, 300, 1000))]
        elif name == "proposal":
            names += items or RECALLS
        else:
            names += [f"{name}_{item}" for item in items or PRECISIONS]
    if best not in names:
        raise UserError(
            f"{where} {best}: this evaluation gives {', '.join(names)}{did_you_mean(best, names)}"
        )


def predict(
    model: nn.Module, data_loader: DataLoader, show: Callable[[dict, list], None] | None = None
) -> list | None:
    """Results of all images, in their order, on rank 0; ``None`` on the others.

    Args:
        model: the detector, wrapped.
        data_loader: this rank's images.
        show: called with each batch and its results, whose masks are arrays.
    """
    model.eval()
    rank, world = get_dist_info()
    results: list = []
    # rank 0 has a progress bar, or a line where there is no terminal
    images = len(data_loader.dataset)
    bar = tqdm(total=images, unit=" images", leave=False, disable=True if rank else None)
    if bar.disable:
        say(f"predicting {images} images")
    for number, batch in enumerate(data_loader):
        with torch.no_grad():
            found = model(return_loss=False, rescale=True, **batch)
        if show:
            show(batch, found)
        results += [encode_result(result) for result in found]
        watchdog.report_progress(f"at image {number * len(found)} of its evaluation")
        bar.update(min(len(found) * world, images - bar.n))
    bar.close()
    return gather_results(results, images)


class EvaluationHook(EvalHook):
    """The evaluation during a training, in one or several processes.

    It does not change what the training draws at random, and the ranks wait for rank 0, which
    computes the metrics, for as long as that takes. With ``save_best`` the values of the last and
    of the best checkpoint are logged when the run ends, and written to ``results.json``.

    Attributes:
        early_stopping: decides after each evaluation whether the run ends, if the config asks for
            it.
        values: of the evaluation that was the last one, on rank 0.

    Args:
        args: of mmdet's hook, as ``settings``.
        pictures: how many images TensorBoard gets, their truth beside their prediction; 0: none.
        broadcast_bn_buffer: all ranks use the statistics of rank 0's norms.
        tmpdir, gpu_collect: of mmdet's hook for several processes; results never go through files.
        settings: of mmdet's hook; all others are given to ``dataset.evaluate``.
    """

    early_stopping: EarlyStopping | None = None

    def __init__(
        self,
        *args,
        pictures: int = 4,
        broadcast_bn_buffer: bool = True,
        tmpdir: str | None = None,
        gpu_collect: bool = False,
        **settings,
    ):
        super().__init__(*args, **settings)
        self.pictures = pictures
        self.broadcast_bn_buffer = broadcast_bn_buffer
        self.values: dict = {}

    def before_run(self, runner: BaseRunner) -> None:
        super().before_run(runner)
        if runner.resumed is not None:
            self.initial_flag = False  # `start` asked for one before the run, not in its middle
        name = os.path.basename(getattr(self, "best_ckpt_path", None) or "")
        if self.save_best:  # a checkpoint may come from elsewhere: only what lies here is replaced
            here = os.path.join(self.out_dir, name)
            self.best_ckpt_path = here if BEST.fullmatch(name) else None

    def _do_evaluate(self, runner: BaseRunner) -> None:
        if not self._should_evaluate(runner):
            return
        # before a run's first epoch (`start`) the training goes on in the mode that it has begun in
        training = runner.model.training
        # around epochs EMA's hook swaps the weights by itself
        with untouched(), averaged_weights(runner, swap=not self.by_epoch):
            if self.broadcast_bn_buffer and runner.world_size > 1:
                broadcast_norms(runner.model)
            self.latest_results = predict(runner.model, self.dataloader)
            if runner.rank == 0:
                with watchdog.paused("evaluating"):
                    runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
                    score = self.evaluate(runner, self.latest_results)
                    if self.save_best and score:
                        self._save_ckpt(runner, score)
                    if self.save_best:
                        remember(runner, self.values, self.best_ckpt_path)
                    self.show(runner)
            watchdog.barrier("the evaluation")
        if self.early_stopping:
            self.early_stopping.after_evaluation(runner, self.values)
        runner.model.train(training)

    def evaluate(self, runner: BaseRunner, results: list) -> float | None:
        """The value that ``save_best`` names; all values go to the log."""
        dataset = self.dataloader.dataset
        self.values = dict(dataset.evaluate(results, logger=runner.logger, **self.eval_kwargs))
        runner.log_buffer.output.update(self.values)
        runner.log_buffer.ready = True
        if not self.save_best or not self.values:
            return None
        if self.key_indicator == "auto":
            self._init_rule(self.rule, next(iter(self.values)))
        return self.values[self.key_indicator]

    def after_run(self, runner: BaseRunner) -> None:
        if self.save_best and runner.rank == 0:
            write_results(runner)

    def show(self, runner: BaseRunner) -> None:
        """Give TensorBoard pictures of COCO's data sets."""
        boards = [hook for hook in runner.hooks if isinstance(hook, TensorboardLoggerHook)]
        dataset = self.dataloader.dataset
        if not boards or not self.pictures or not hasattr(dataset, "coco"):
            return
        for index in evenly(dataset, self.pictures):
            picture = comparison(dataset, self.latest_results[index], index)
            name = f"predictions/{dataset.data_infos[index]['filename']}"
            for board in boards:
                step = board.get_iter(runner)
                board.writer.add_image(name, picture[..., ::-1], step, dataformats="HWC")


def broadcast_norms(model: nn.Module) -> None:
    """Give every rank the running statistics of rank 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            torch.distributed.broadcast(module.running_var, 0)
            torch.distributed.broadcast(module.running_mean, 0)
