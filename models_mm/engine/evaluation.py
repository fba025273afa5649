"""Evaluation in several processes: parts in the work dir, and no limit of time on the waiting."""

import os
import shutil
from pathlib import Path

import mmcv
import torch
from mmcv.runner import get_dist_info
from mmdet.apis.test import collect_results_gpu
from mmdet.core import DistEvalHook, EvalHook, encode_mask_results
from torch import nn
from torch.utils.data import DataLoader

from models_mm.engine import watchdog
from models_mm.engine.randomness import untouched
from models_mm.errors import UserError


def multi_gpu_test(
    model: nn.Module, data_loader: DataLoader, tmpdir: str, gpu_collect: bool = False
) -> list | None:
    """Results of all images, in their order, on rank 0; ``None`` on the others.

    Args:
        model: the detector, wrapped.
        data_loader: this rank's images.
        tmpdir: folder for the ranks' parts, shared by all machines.
        gpu_collect: collect over the GPUs instead.
    """
    model.eval()
    rank, world = get_dist_info()
    results: list = []
    bar = mmcv.ProgressBar(len(data_loader.dataset)) if rank == 0 else None
    for number, batch in enumerate(data_loader):
        with torch.no_grad():
            found = model(return_loss=False, rescale=True, **batch)
        results += [_encoded(result) for result in found]
        watchdog.step(f"at image {number * len(found)} of its evaluation")
        for _ in range(len(found) * world if bar else 0):
            bar.update()
    if gpu_collect:
        return collect_results_gpu(results, len(data_loader.dataset))
    return collect(results, len(data_loader.dataset), Path(tmpdir))


def _encoded(result):
    """A result with its masks as run lengths."""
    if isinstance(result, tuple):
        boxes, masks = result
        return boxes, encode_mask_results(masks)
    return result


def collect(results: list, size: int, folder: Path) -> list | None:
    """Bring the ranks' results together on rank 0, through files.

    Raises:
        UserError: rank 0 does not see the other ranks' files.
    """
    rank, world = get_dist_info()
    folder.mkdir(parents=True, exist_ok=True)
    mmcv.dump(results, folder / f"part_{rank}.pkl")
    watchdog.meet("the results of all images")
    if rank != 0:
        return None
    parts = []
    for other in range(world):
        file = folder / f"part_{other}.pkl"
        if not file.is_file():
            raise UserError(
                f"rank {other} has written {file}, and rank 0 does not see it: "
                "the work dir must be a folder that all machines share"
            )
        parts.append(mmcv.load(file))
    shutil.rmtree(folder, ignore_errors=True)
    # rank r had images r, r + world, ...; the last round is filled up with repeated ones
    return [result for row in zip(*parts, strict=True) for result in row][:size]


class PatientEvalHook(DistEvalHook):
    """mmdet's hook for several processes, with the collection above."""

    def _do_evaluate(self, runner) -> None:
        if not self._should_evaluate(runner):
            return
        with untouched():
            if self.broadcast_bn_buffer:
                broadcast_norms(runner.model)
            tmpdir = self.tmpdir or os.path.join(runner.work_dir, ".eval_hook")
            results = multi_gpu_test(runner.model, self.dataloader, tmpdir, self.gpu_collect)
            self.latest_results = results
            if runner.rank == 0:
                print()  # ends the line of the progress bar
                with watchdog.paused("evaluating"):
                    runner.log_buffer.output["eval_iter_num"] = len(self.dataloader)
                    score = self.evaluate(runner, results)
                    if self.save_best and score:
                        self._save_ckpt(runner, score)
            watchdog.meet("the evaluation")


def broadcast_norms(model: nn.Module) -> None:
    """Give every rank the running statistics of rank 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            torch.distributed.broadcast(module.running_var, 0)
            torch.distributed.broadcast(module.running_mean, 0)


class QuietEvalHook(EvalHook):
    """mmdet's hook for one process; what it draws at random does not change the training."""

    def _do_evaluate(self, runner) -> None:
        with untouched():
            super()._do_evaluate(runner)
