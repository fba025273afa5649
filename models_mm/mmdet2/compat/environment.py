"""What is installed, what is used, and what is wrong with it."""

import importlib
import platform
import shutil

import torch
import torch.distributed as dist

from models_mm.mmdet2.compat import operators, packages

PACKAGES = (
    *("torch", "torchvision", "timm", "mmcv", "mmcv-full", "mmdet", "numpy"),
    *("pycocotools", "hotcoco"),
)


def report() -> tuple[dict[str, str], list[str]]:
    """Facts by name, and problems, each with what to do about it."""
    facts = {"python": platform.python_version()}
    facts.update({name: packages.installed(name) or "-" for name in PACKAGES})
    facts["opencv"] = _opencv()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["operators"] = operators.in_use()
    facts["GPUs"] = ", ".join(gpus) or "none: training and testing run on the CPU"
    facts["CUDA of torch"] = torch.version.cuda or "none"
    backends = {"NCCL": dist.is_nccl_available(), "gloo": dist.is_gloo_available()}
    facts["distributed"] = ", ".join(k for k, there in backends.items() if there) or "none"
    return facts, problems(gpus)


def problems(gpus: list[str]) -> list[str]:
    """What keeps this installation from training or testing."""
    found = packages.problems()
    for name in ("cv2", "pycocotools.mask", "torch.utils.tensorboard", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            package = {"cv2": "opencv-python-headless"}.get(name, name.split(".")[0])
            package = "tensorboard" if "tensorboard" in name else package
            found.append(f"{name} does not import ({error}): `pip install {package}`")
    if not gpus and shutil.which("nvidia-smi"):
        found.append(
            "the machine has an NVIDIA driver, but torch sees no GPU: the driver is too old for "
            f"CUDA {torch.version.cuda}, or CUDA_VISIBLE_DEVICES hides it"
        )
    if gpus and not dist.is_nccl_available():
        found.append("torch was built without NCCL: several GPUs cannot work together")
    return found


def _opencv() -> str:
    builds = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
    names = [f"{name} {packages.installed(name)}" for name in builds if packages.installed(name)]
    return ", ".join(names) or "-"
