"""What is installed, what is used, and what is wrong with it."""

import importlib
import platform
import shutil

import torch
import torch.distributed as dist

from models_mm.mmdet2.compat import operators, packages
from models_mm.version import __version__

PACKAGES = (
    *("torch", "torchvision", "timm", "mmcv", "mmcv-full", "mmdet", "numpy"),
    *("pycocotools", "hotcoco"),
)
# Imported by what only a host does -> the package that brings it.
MODULES = {
    "cv2": "opencv-python-headless",
    "pycocotools.mask": "pycocotools",
    "hotcoco": "hotcoco",
    "torch.utils.tensorboard": "tensorboard",
    "matplotlib": "matplotlib",
}
OPENCVS = (
    *("opencv-python-headless", "opencv-python"),
    *("opencv-contrib-python-headless", "opencv-contrib-python"),
)


def report() -> tuple[dict[str, str], list[str]]:
    """Facts by name, and problems, each with what to do about it."""
    facts = {"python": platform.python_version(), "models_mm": __version__}
    facts.update({name: packages.installed(name) or "-" for name in PACKAGES})
    facts["opencv"] = ", ".join(f"{name} {packages.installed(name)}" for name in opencvs()) or "-"
    host = packages.has_host()
    facts["host"] = "mmdet" if host else "not installed, `models_mm setup` brings it"
    found = [*packages.problems(), *missing_modules()] if host else packages.core_problems()
    if host:
        facts["operators"] = operators.in_use()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["GPUs"] = ", ".join(gpus) or "none: everything runs on the CPU"
    facts["CUDA of torch"] = torch.version.cuda or "none"
    backends = {"NCCL": dist.is_nccl_available(), "gloo": dist.is_gloo_available()}
    facts["distributed"] = ", ".join(k for k, there in backends.items() if there) or "none"
    return facts, [*found, *gpu_problems(gpus)]


def opencvs() -> list[str]:
    """The installed distributions of OpenCV, which all write the same files."""
    return [name for name in OPENCVS if packages.installed(name)]


def missing_modules() -> list[str]:
    """What training or testing imports and this installation cannot, and two OpenCVs."""
    found = []
    try:
        importlib.import_module("mmcv")
    except ImportError as error:
        found.append(str(error))
    for name, package in MODULES.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            found.append(f"{name} does not import ({error}): `pip install {package}`")
    if len(opencvs()) > 1:
        found.append(
            f"{' and '.join(opencvs())} are installed, and they write the same files: run "
            f"`pip uninstall -y {' '.join(opencvs())}`, then `models_mm setup`"
        )
    return found


def gpu_problems(gpus: list[str]) -> list[str]:
    """What keeps torch from the GPUs of this machine."""
    found = []
    if not gpus and shutil.which("nvidia-smi"):
        found.append(
            "the machine has an NVIDIA driver, but torch sees no GPU: the driver is too old for "
            f"CUDA {torch.version.cuda}, or CUDA_VISIBLE_DEVICES hides it"
        )
    if gpus and not dist.is_nccl_available():
        found.append("torch was built without NCCL: several GPUs cannot work together")
    return found
