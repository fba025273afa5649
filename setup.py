"""Packaging: the library, and beside it the configs and tools that people run."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ["configs", "model-index.yml", "tools"]
SHIPPED += ["dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"]
version = {}
exec((ROOT / "models_mm" / "version.py").read_text(), version)


class BuildWithTools(build_py):
    """Copy configs and tools to ``models_mm/.mim``, where mim and the scripts look for them."""

    def run(self):
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for name in SHIPPED:
            source, target = ROOT / name, Path(self.build_lib) / "models_mm" / ".mim" / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)


setup(
    name="models_mm",
    version=version["__version__"],
    description="BiFormer, RecNeXt, MPViT, DFvT and KernelWarehouse backbones for MMDetection 2.28",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["models_mm*"]),
    package_data={"models_mm.mmdet2.compat": ["*.sh"]},
    cmdclass={"build_py": BuildWithTools},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "timm>=1.0",
        "mmdet==2.28.2",
        # mmcv 1.7.x too, as mmcv or as mmcv-full: pip cannot say "either", so the import checks it
        "addict",
        "filelock",
        "hotcoco>=1.3",
        "numpy",
        "opencv-python-headless",
        "packaging",
        "pillow",
        "pycocotools",
        "pyyaml",
        "safetensors",
        "scipy",
        "tensorboard",
        "yapf",
    ],
)
