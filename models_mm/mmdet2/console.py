"""What a training shows on the terminal: what it is, its progress, and a row per evaluation.

The ``.log`` and ``.log.json`` files have all of it and more; with ``--verbose`` the terminal shows
the ``.log``. Without a terminal, the progress is one plain line per ``log_config.interval``.
"""

import logging
import math
import resource
import sys
import time
from pathlib import Path

import mmcv
import torch
from mmcv import Config
from mmcv.runner import BaseRunner, get_dist_info
from mmcv.runner.hooks import LoggerHook
from tqdm import tqdm

from models_mm.logs import LOGGER, is_for_terminal
from models_mm.mmdet2.loaders import Loader
from models_mm.mmdet2.losses import Losses
from models_mm.values import is_number

WIDTH = 11  # of a column of the table
SIZES = ("_s", "_m", "_l")  # ends of the names of APs for small, medium and large objects
RECENT = 10  # iterations that the speed is averaged over
SHOWN = 8  # classes


def write(line: str) -> None:
    """Print a line above a progress bar."""
    tqdm.write(line, file=sys.stderr)


class TerminalHandler(logging.Handler):
    """Shows warnings, and the lines of this package that are for the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            write(f"{record.levelname.lower()}: {record.getMessage()}")
        elif is_for_terminal(record):
            write(record.getMessage())


def quiet() -> None:
    """Let the loggers of mmcv, mmdet and this package show what :class:`TerminalHandler` does.

    Ranks other than 0 show errors only.
    """
    terminal = TerminalHandler(logging.ERROR if get_dist_info()[0] else logging.NOTSET)
    names = (*mmcv.utils.logging.logger_initialized, LOGGER.name)
    for logger in map(logging.getLogger, names):
        for handler in list(logger.handlers):
            if type(handler) is logging.StreamHandler:
                logger.removeHandler(handler)
                logger.addHandler(terminal)


class Console(LoggerHook):
    """The progress of a training, for rank 0.

    Args:
        interval: iterations per plain line, as those of the log.
        by_epoch: whether the run is counted in epochs.
    """

    def __init__(self, interval: int, by_epoch: bool):
        super().__init__(interval=interval, by_epoch=by_epoch)
        self.columns: list[str] = []
        self.logged: dict[str, float] = {}
        self.best = 0.0

    def before_run(self, runner: BaseRunner) -> None:
        super().before_run(runner)
        best = runner.meta.get("hook_msgs", {}).get("best_score")  # of a run that goes on
        self.best = best if is_number(best) else 0.0
        self.first, self.began = runner.iter, time.monotonic()
        self.bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            file=sys.stderr,
            disable=None,  # without a terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="|{bar:10}| {desc}",
        )

    def after_train_iter(self, runner: BaseRunner) -> None:
        if not self.bar.disable:
            times = runner.log_buffer.val_history.get("time", [])[-RECENT:]
            values = runner.outputs.get("log_vars", {})
            if isinstance(values, Losses):  # on the GPU, which each reading would wait for
                values = self.logged = self.logged or dict(values)
            text = self.progress(runner, values, times)
            self.bar.set_description_str(f"{self.place(runner)}  {text}", refresh=False)
            # an evaluation by iterations calls this before it, too
            self.bar.update(runner.iter + 1 - self.bar.n)
        super().after_train_iter(runner)

    def log(self, runner: BaseRunner) -> None:
        """Show what the log buffer has: an interval of the training, or an evaluation."""
        values = runner.log_buffer.output
        if self.get_mode(runner) == "train":
            self.logged = dict(values)
            if self.bar.disable:
                times = [values["time"]]
                write(f"{self.place(runner)}  {self.progress(runner, values, times)}")
        elif "loss" in values:  # of the workflow's validation
            write(f"{self.place(runner)}  validation: {losses(values)}")
        else:
            self.row(runner, values)

    def after_run(self, runner: BaseRunner) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar."""
        if hasattr(self, "bar"):
            self.bar.close()

    def place(self, runner: BaseRunner) -> str:
        """Where the run is."""
        if not self.by_epoch:
            return f"iter {runner.iter + 1}/{runner.max_iters}"
        epoch = f"epoch {self.get_epoch(runner)}/{runner.max_epochs}"
        return f"{epoch} {runner.inner_iter + 1}/{len(runner.data_loader)}"

    def progress(self, runner: BaseRunner, values: dict, times: list[float]) -> str:
        """Time that is left, speed, learning rate, memory and losses; a narrow terminal cuts it."""
        done, elapsed = runner.iter + 1 - self.first, time.monotonic() - self.began
        left = elapsed / done * (runner.max_iters - runner.iter - 1)  # evaluations included
        images = runner.samples_per_gpu * runner.world_size * len(times)
        speed = images / sum(times) if sum(times) else 0
        rates = runner.current_lr()
        rate = rates[0] if isinstance(rates, list) else next(iter(rates.values()))[0]
        return (
            f"eta {tqdm.format_interval(left)}  {speed:.1f} images/s  lr {rate:.2g}  "
            f"{memory() / 2**30:.1f} GB  {losses(values)}"
        )

    def row(self, runner: BaseRunner, values: dict) -> None:
        """Add an evaluation to the table; the best one is marked."""
        numbers = {name: value for name, value in values.items() if is_number(value)}
        if numbers and not self.columns:
            several = sum(name.endswith("_mAP") for name in numbers) > 1
            self.columns = [n for n in numbers if not (several and n.endswith(SIZES))]
            titles = (name.replace("mAP_", "AP").replace("mAP", "AP") for name in self.columns)
            titles = (title.replace("_", " ") for title in titles)
            unit = "epoch" if self.by_epoch else "iter"
            write(f"{unit:>7}" + "".join(f"{title:>{WIDTH}}" for title in titles))
        count = f"{(runner.epoch if self.by_epoch else runner.iter) + 1:>7}"
        if not numbers:
            write(f"{count}  no objects were found")
            return
        shown = (numbers.get(name, math.nan) for name in self.columns)
        cells = "".join(f"{'-' if v == -1 else format(v, '.3f'):>{WIDTH}}" for v in shown)
        kept = [hook.key_indicator for hook in runner.hooks if getattr(hook, "save_best", None)]
        main = numbers[kept[0] if kept else self.columns[0]]
        write(f"{count}{cells}{'  best' if main > self.best else ''}")
        self.best = max(self.best, main)


def losses(values: dict) -> str:
    """The sum of the losses and its parts."""
    parts = {name: v for name, v in values.items() if "loss" in name and name != "loss"}
    shown = " ".join(f"{name.replace('loss_', '')} {value:.3f}" for name, value in parts.items())
    return f"loss {values.get('loss', math.nan):.3f} ({shown})"


def memory() -> int:
    """The most memory so far in bytes: of the GPU, or without one of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def describe(
    runner: BaseRunner, cfg: Config, loaders: list[Loader], validation: Loader | None
) -> list[str]:
    """What a training is, in a few lines."""
    model, data = runner.bare_model(), loaders[0].dataset
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    frozen = "" if trained == total else f", {(total - trained) / 1e6:.1f} M of them frozen"
    classes = list(data.CLASSES or ())
    names = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
    of_val = f"; validation: {len(validation.dataset)} images" if validation else ""
    device = cfg.device
    if device == "cuda":
        device = torch.cuda.get_device_name()
    by_epoch = f"{runner.max_epochs} epochs of {len(loaders[0])} iterations"
    length = by_epoch if runner.by_epoch else f"{runner.max_iters} iterations"
    images = loaders[0].samples_per_gpu
    extras = [name for name in ("ema", "fp16", "early_stopping") if cfg.get(name) is not None]
    recipe = [length, cfg.optimizer.type, f"learning rate {cfg.optimizer.lr:g}", *extras]
    file = Path(runner.work_dir) / f"{runner.timestamp}.log"
    return [
        f"model   {type(model).__name__} with {cfg.model.backbone.type}, "
        f"{total / 1e6:.1f} M parameters{frozen}",
        f"data    {len(data)} images, {len(classes)} classes ({names}){of_val}",
        f"device  {device}, {runner.world_size} x {images} images per step",
        f"recipe  {', '.join(recipe)}",
        f"log     {file}",
    ]
