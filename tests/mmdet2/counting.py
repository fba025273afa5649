"""Count what an iteration sends to other ranks, and how often it reads values of tensors."""

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import models_mm  # noqa: F401  isort: skip
from mmcv.runner import HOOKS, Hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__"}


class Collectives(TorchDispatchMode):
    """Counts what processes send each other."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.names[func.name()] += 1
        return func(*args, **(kwargs or {}))


class Readings(TorchFunctionMode):
    """Counts how often values of tensors are read; on a GPU, each waits for it."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READING:
            self.names[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@HOOKS.register_module()
class CountingHook(Hook):
    """Write what each iteration has done, up to the next one, into ``COUNTS/rank_N.json``."""

    def __init__(self):
        self.found, self.modes = [], ExitStack()

    def before_train_iter(self, runner):
        self.modes.close()
        self.collectives, self.readings = Collectives(), Readings()
        self.modes.enter_context(self.readings)
        self.modes.enter_context(self.collectives)
        self.found.append((self.collectives.names, self.readings.names))

    def after_run(self, runner):
        self.modes.close()
        path = Path(os.environ["COUNTS"], f"rank_{runner.rank}.json")
        path.write_text(json.dumps(self.found))
