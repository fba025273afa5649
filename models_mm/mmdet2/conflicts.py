"""Find settings that contradict each other, or that this kind of run would ignore.

Each of them is refused in one line, or only named if it has no consequence for the user.
:mod:`models_mm.mmdet2.settings` checks single settings.
"""

from collections.abc import Iterable, Iterator

from models_mm.errors import UserError
from models_mm.messages import say_once

ITERATIONS = "IterBasedRunner"
# Settings of training loaders only: an evaluation reads every image once, in the order of the data.
OF_TRAINING_LOADERS = ("shuffle", "drop_last", "class_aware_sampler")
# Counters of epochs, which a run without epochs never increases.
OF_EPOCHS = (
    *("checkpoint_config.by_epoch", "lr_config.by_epoch", "lr_config.warmup_by_epoch"),
    "momentum_config.by_epoch",
)
# Settings of mmdet without effect here, and why.
WITHOUT_EFFECT = {
    "evaluation.tmpdir": "results never go through files",
    "evaluation.gpu_collect": "results never go through files",
    "fp16.coalesce": "DistributedDataParallel exchanges the gradients",
    "fp16.bucket_size_mb": "DistributedDataParallel exchanges the gradients",
}


def check_conflicts(tree: dict, splits: Iterable[str], training: bool) -> None:
    """Refuse settings that are valid alone, but not together.

    Args:
        tree: the settings of the config, after the checks of their types.
        splits: the data sets that will be read, of ``train``, ``val``, ``test``.
        training: also check the settings that only a training needs.

    Raises:
        UserError: names the settings, and what to do.
    """
    for split in splits:
        check_loader(tree["data"], split)
    if not training:
        return
    check_training_loader(tree)
    check_counting(tree)
    check_optimizer_hook(tree)
    check_averages(tree)
    check_evaluation_hook(tree.get("evaluation", {}))
    check_early_stopping(tree)
    scaling = tree.get("auto_scale_lr") or {}
    if scaling.get("enable") and "base_batch_size" not in scaling:
        raise UserError("auto_scale_lr.enable needs auto_scale_lr.base_batch_size: images per step")
    for path, reason in WITHOUT_EFFECT.items():
        section, _, name = path.partition(".")
        if (tree.get(section) or {}).get(name) not in (None, False):
            say_once(f"config: {path} has no effect ({reason}): leave it out")


def check_loader(data: dict, split: str) -> None:
    """Refuse settings that the data loader of a split cannot follow."""
    where, loader = f"data.{split}_dataloader", data.get(f"{split}_dataloader") or {}
    for old, name in elsewhere(data, split):
        if name in loader:
            raise UserError(f"{old} and {where}.{name}: give one of them")
    if loader.get("seed") is not None:
        raise UserError(f"{where}.seed: samples follow the run's seed: use --seed")
    if loader.get("num_gpus", 1) != 1:
        raise UserError(
            f"{where}.num_gpus: one process uses one GPU: for several, bash dist_train.sh CONFIG "
            "GPUS"
        )
    for name in OF_TRAINING_LOADERS if split != "train" else ():
        if loader.get(name):
            raise UserError(
                f"{where}.{name}: an evaluation takes every image once, in order: leave it out"
            )
    if False in (loader.get("persistent_workers"), data.get("persistent_workers")):
        say_once("config: persistent_workers=False has no effect: data workers live with the run")


def elsewhere(data: dict, split: str) -> Iterator[tuple[str, str]]:
    """The paths and names of loader settings that a config has in the other places for a split."""
    if split == "train":
        names = {"imgs_per_gpu": "samples_per_gpu"}
        names |= {name: name for name in ("samples_per_gpu", "persistent_workers")}
        yield from ((f"data.{old}", name) for old, name in names.items() if old in data)
        return
    parts = data.get(split)
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        if isinstance(part, dict) and "samples_per_gpu" in part:
            yield f"data.{split}.samples_per_gpu", "samples_per_gpu"


def check_training_loader(tree: dict) -> None:
    """Check how a training loader chooses its samples."""
    loader = tree["data"].get("train_dataloader") or {}
    by_class = loader.get("class_aware_sampler")
    if by_class and loader.get("shuffle") is False:
        raise UserError(
            "data.train_dataloader.class_aware_sampler draws at random: leave shuffle=False out"
        )
    for name in ("class_aware_sampler", "drop_last"):
        if loader.get(name) and without_epochs(tree):
            raise UserError(
                f"data.train_dataloader.{name} is for epochs, of which {ITERATIONS} has none: "
                "leave it out, or use EpochBasedRunner"
            )


def without_epochs(tree: dict) -> bool:
    """Whether a run counts iterations and no epochs."""
    return (tree.get("runner") or {}).get("type") == ITERATIONS


def check_counting(tree: dict) -> None:
    """Refuse settings that count epochs in a run without them, or iterations in a run of epochs."""
    by_epoch = not without_epochs(tree)
    if tree.get("evaluation", {}).get("by_epoch", by_epoch) != by_epoch:
        raise UserError(
            f"evaluation.by_epoch={not by_epoch}: evaluation.interval counts what the runner "
            f"{tree['runner']['type']} counts: leave it out"
        )
    if by_epoch:
        return
    given = [path for path in OF_EPOCHS if _at(tree, path)]
    hooks = (tree.get("log_config") or {}).get("hooks", ())
    given += [f"log_config.hooks.{i}.by_epoch" for i, h in enumerate(hooks) if h.get("by_epoch")]
    if given:
        raise UserError(f"{given[0]}=True: {ITERATIONS} has no epochs: leave it out")


def _at(tree: dict, path: str) -> object:
    section, _, name = path.partition(".")
    return (tree.get(section) or {}).get(name)


def check_optimizer_hook(tree: dict) -> None:
    """Refuse options that the optimizer hook of this run does not have."""
    settings, amp = tree["optimizer_config"], tree.get("amp")
    half = amp == "float16" or (amp is None and tree.get("fp16") is not None)
    clipping = settings.get("grad_clip")
    if clipping is not None and "max_norm" not in clipping:
        raise UserError("optimizer_config.grad_clip.max_norm is missing: the largest norm allowed")
    if half and "type" in settings:
        raise UserError(
            "optimizer_config.type and fp16 exclude each other: leave the type out "
            "(optimizer_config.cumulative_iters works with fp16), or fp16 (Fp16OptimizerHook takes "
            "loss_scale itself)"
        )
    if settings.get("detect_anomalous_params") and (
        half or settings.get("cumulative_iters", 1) > 1
    ):
        raise UserError(
            "optimizer_config.detect_anomalous_params looks at plain steps only: leave fp16 and "
            "cumulative_iters out for it"
        )


def check_averages(tree: dict) -> None:
    """Refuse a second average of the weights, and one with a ``resume_from`` of its own."""
    hooks = [(f"custom_hooks.{i}", h) for i, h in enumerate(tree.get("custom_hooks") or ())]
    hooks = [(where, hook) for where, hook in hooks if "EMAHook" in str(hook["type"])]
    if tree.get("ema") is not None:
        hooks = [("ema", tree["ema"]), *hooks]
    if len(hooks) > 1:
        raise UserError(f"{hooks[0][0]} and {hooks[1][0]} both average weights: give one of them")
    for where, hook in hooks:
        if hook.get("resume_from") not in (None, tree.get("resume_from")):
            raise UserError(
                f"{where}.resume_from: the average goes on with the run: use --resume-from"
            )


def check_evaluation_hook(settings: dict) -> None:
    """Refuse options of mmcv's evaluation hook that ours does not have."""
    if settings.get("test_fn") is not None:
        raise UserError("evaluation.test_fn: the detector is called as test.py does: leave it out")
    client = settings.get("file_client_args")
    if client is not None and client != dict(backend="disk"):
        raise UserError(
            "evaluation.file_client_args: checkpoints are written to disks: leave it out"
        )


def check_early_stopping(tree: dict) -> None:
    """Refuse an early end that cannot come: of a run with too few evaluations.

    After the first evaluation, which is the best one so far, ``patience`` more are needed, and
    something of the run has to be left then.
    """
    settings, runner = tree.get("early_stopping"), tree.get("runner") or {}
    length = runner.get("max_epochs") or runner.get("max_iters") or tree.get("total_epochs")
    if settings is None or length is None:
        return
    evaluation = tree.get("evaluation", {})
    interval, start = evaluation.get("interval", 1), evaluation.get("start")
    number = length // interval if start is None else max(length - start, -1) // interval + 1
    patience = settings.get("patience", 3)
    if number <= patience + 1:
        raise UserError(
            f"early_stopping.patience={patience} can have no effect: the run has {number} "
            "evaluations; give a smaller one or a longer run"
        )
