"""A training of the tiny detector, assembled in this process as far as a test looks at it."""

import argparse
import copy
from functools import cached_property
from pathlib import Path

import models_mm  # noqa: F401  isort: skip
import torch
from mmcv import Config

from models_mm.mmdet2.building import build_model, prepare
from models_mm.mmdet2.configs import compatible, load_config
from models_mm.mmdet2.execution import settle_precision
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.testing import build_loader
from models_mm.mmdet2.train_detector import assemble, start_loaders

TINY = str(Path(__file__).parents[1] / "runs" / "tiny.py")


class Run:
    """A training as far as it is asked for; data workers are ended by :meth:`close`.

    Args:
        data: a drawn data set.
        work: the work dir.
        settings: dotted names and values, put into the tiny config; ``None`` values stay.
        device: what the machine is taken for.
        distributed: in several processes; they are one.
    """

    def __init__(
        self, data: Path, work: Path, settings: dict, device="cpu", distributed: bool = False
    ):
        cfg = load_config(TINY)
        for split, year in (("train", "train2017"), ("val", "val2017"), ("test", "val2017")):
            cfg.data[split].ann_file = f"{data}/annotations/instances_{year}.json"
            cfg.data[split].img_prefix = f"{data}/{year}/"
        cfg.data.workers_per_gpu = 0
        for name, value in settings.items():
            if value is REMOVED:
                place, _, last = f"cfg.{name}".rpartition(".")
                section = cfg._cfg_dict
                for part in place.split(".")[1:]:
                    section = section[part]
                del section[last]
            else:
                cfg.merge_from_dict({name: copy.deepcopy(value)})
        check_settings(cfg, ("train", "val", "test"), training=True)
        settle_precision(cfg)
        cfg.merge_from_dict(dict(device=device, gpu_ids=[0], seed=0))
        cfg.setdefault("work_dir", str(work))
        self.cfg, self.distributed = cfg, distributed

    @cached_property
    def model(self) -> torch.nn.Module:
        """The detector."""
        model = build_model(self.cfg)
        model.CLASSES = ("ellipse", "rectangle", "triangle", "star", "cross")
        return model

    @cached_property
    def _loaders(self):
        loaders, validation = start_loaders(self.cfg, validate=True)
        for loader in loaders:
            loader.dataset.CLASSES = self.model.CLASSES
        return loaders, validation

    @property
    def train(self):
        """The training loader, after the runner has been assembled."""
        assert self.runner
        return self._loaders[0][0]

    @property
    def loaders(self) -> list:
        """The workflow's loaders."""
        return self._loaders[0]

    @property
    def val(self):
        """The loader of the evaluation."""
        return self._loaders[1]

    @cached_property
    def test(self):
        """The loader of test.py."""
        loader = build_loader(compatible(self.cfg))
        loader.take_share(dist=False, shuffle=False)
        return loader

    @cached_property
    def runner(self):
        """The runner with all hooks, ready to run."""
        loaders, validation = self._loaders
        cfg = compatible(self.cfg)
        return assemble(self.model, loaders, validation, cfg, self.distributed, meta={})

    @cached_property
    def prepared(self) -> Config:
        """What every tool settles first."""
        prepare(self.cfg, argparse.Namespace(work_dir=None, config=TINY, launcher="none"))
        return self.cfg

    def hook(self, name: str):
        """The hook whose class has this name."""
        (hook,) = [h for h in self.runner.hooks if type(h).__name__ == name]
        return hook

    def group(self, name: str):
        """A setting of the optimizer, which has one group of parameters."""
        (group,) = self.runner.optimizer.param_groups
        return group[name]

    def groups(self, name: str) -> set:
        """The values of a setting, of all groups of parameters."""
        return {round(float(group[name]), 9) for group in self.runner.optimizer.param_groups}

    def close(self) -> None:
        """End the data workers."""
        for made in ("_loaders", "test"):
            if made in vars(self):
                parts = vars(self)[made]
                for loader in (*parts[0], parts[1]) if made == "_loaders" else [parts]:
                    loader.close()


REMOVED = object()
