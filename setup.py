"""The part of the packaging that pyproject.toml cannot say: configs and tools in the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ["configs", "model-index.yml", "tools"]
SHIPPED += ["dist_train.sh", "dist_test.sh", "slurm_train.sh", "slurm_test.sh"]


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


setup(cmdclass={"build_py": BuildWithTools})
