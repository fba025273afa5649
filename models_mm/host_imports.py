"""What happens when a host framework is imported: it is patched, and the backbones are registered.

Nothing is imported here before that; a framework that is never imported costs nothing.
"""

import importlib
import importlib.abc
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec

# The packages of the host, and what to do after each has been imported.
HOOKS = {
    "mmcv": ("models_mm.mmdet2.compat", "apply_to_mmcv"),
    "mmdet": ("models_mm.mmdet2.registration", "register"),
}
# Packages that come with the host's extra.
PACKAGES = (*HOOKS, "cv2", "pycocotools", "matplotlib", "tensorboard", "terminaltables", "addict")


def of_host(error: ModuleNotFoundError) -> bool:
    """Whether a package that is missing comes with the host."""
    return (error.name or "").partition(".")[0] in PACKAGES


def missing(package: str) -> str:
    """What to do about a package of the host that is not installed."""
    return (
        f"this needs MMDetection, and {package} is not installed: "
        "`pip install 'models_mm[mmdet]'`, then `models_mm setup`"
    )


@contextmanager
def needed_by(name: str) -> Iterator[None]:
    """Say what to do about a package of the host that is missing.

    Raises:
        ImportError: a package of the host is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not of_host(error):
            raise
        raise ImportError(f"{name}: {missing(error.name)}") from error


def stand_by() -> None:
    """Wait for the host's packages to be imported; patch at once those that have been."""
    if not any(isinstance(finder, HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, HostFinder())
    for name in HOOKS:
        if sys.modules.get(name) is not None:  # None: somebody has forbidden the import
            call_hook(name)


def call_hook(name: str) -> None:
    """Do what is to be done after a package has been imported."""
    module, function = HOOKS[name]
    getattr(importlib.import_module(module), function)()


class HostFinder(importlib.abc.MetaPathFinder):
    """Finds the host's packages as they would be found without it, and calls their hooks."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name not in HOOKS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = HookedLoader(spec.loader)
        return spec


class HookedLoader(importlib.abc.Loader):
    """A loader that prepares the way for a package, and calls its hook afterwards."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec):
        return self.loader.create_module(spec)

    def exec_module(self, module) -> None:
        silence()
        importlib.import_module("models_mm.mmdet2.compat.yapf_grammar").apply()
        self.loader.exec_module(module)
        call_hook(module.__name__)


def silence() -> None:
    """Spare users what they cannot act on."""
    # mmcv announces its own version 2 at every import of 1.7
    warnings.filterwarnings("ignore", message="On January 1, 2023, MMCV will release v2.0.0")
    # mmcv's EMAHook, once per process
    warnings.filterwarnings("ignore", message="This overload of add_ is deprecated")
    # mmcv imports torch's extension builder, which tells every process without a GPU which toolkit
    # it would have used
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
