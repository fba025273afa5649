"""The core without a host framework, and what happens when one is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models_mm import create_backbone, list_backbones

ROOT = Path(__file__).resolve().parent.parent
# Makes everything that a host brings look as if it were not installed.
WITHOUT_HOST = """
import importlib.machinery, sys
HOST = {"mmcv", "mmdet", "cv2", "pycocotools", "hotcoco", "matplotlib", "tensorboard",
        "terminaltables", "addict", "yapf", "scipy"}

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HOST:
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Hidden())
"""


def run(program: str, *arguments) -> subprocess.CompletedProcess:
    """Run Python code in the checkout, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_importing_the_package_imports_nothing_else():
    done = run(
        "import sys, models_mm\n"
        "print([name for name in ('torch', 'numpy', 'yaml', 'mmcv', 'mmdet') if name in "
        "sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.slow
def test_every_backbone_runs_without_a_host(tmp_path):
    program = """
import torch, models_mm
for name in models_mm.list_backbones():
    model = models_mm.create_backbone(name).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 64, 64))
    assert [out.shape[1] for out in outs] == list(model.out_channels), name
    print(name)
"""
    done = run(WITHOUT_HOST + program)
    assert done.stdout.split() == list_backbones(), done.stderr


def test_the_core_reads_inspects_and_converts_without_a_host(tmp_path):
    """A published kind of file, and a detector, whose heads only a host can check."""
    weights = create_backbone("recnext_m3").state_dict()
    classifier = {"head.head.linear.weight": torch.zeros(10, 512)}
    torch.save({"model": weights | classifier}, tmp_path / "published.pth")
    detector = {f"backbone.{key}": value for key, value in weights.items()}
    detector["bbox_head.retina_cls.bias"] = torch.zeros(720)
    torch.save({"state_dict": detector, "meta": {}}, tmp_path / "detector.pth")
    program = """
import sys
import models_mm
from models_mm.cli import convert
folder = sys.argv.pop()
model = models_mm.create_backbone("recnext_m3", pretrained=f"{folder}/published.pth")
assert "mask_rcnn_recnext_m3_fpn_1x_coco" in models_mm.list_configs()
convert.main(["inspect", f"{folder}/published.pth"])
convert.main([f"{folder}/published.pth", f"{folder}/backbone.safetensors"])
convert.main(["inspect", f"{folder}/detector.pth"])
for name in ("Detector", "get_config"):
    try:
        getattr(models_mm, name)
    except ImportError as error:
        print(error)
"""
    done = run(WITHOUT_HOST + program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recnext_m3" in done.stdout and "yes, it loads strictly" in done.stdout
    assert "not checked: neck and heads" in done.stdout
    assert done.stdout.count("`pip install 'models_mm[mmdet]'`, then `models_mm setup`") == 2
    model = create_backbone("recnext_m3", pretrained=tmp_path / "backbone.safetensors")
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("imports", ["models_mm, mmdet", "mmcv, models_mm, mmdet.models"])
def test_a_host_is_patched_whatever_is_imported_first(imports):
    done = run(
        f"import {imports}\n"
        "from mmcv.ops import nms\n"
        "from mmdet.models import build_backbone\n"
        "from mmdet.datasets import PIPELINES\n"
        "print(type(build_backbone(dict(type='dfvt_t'))).__module__)\n"
        "print(PIPELINES.get('LoadImageFromFile').__module__)\n"
    )
    assert done.stdout.split() == ["models_mm.backbones.dfvt", "models_mm.mmdet2.pipelines"], (
        done.stderr
    )


def test_backbones_take_timms_words():
    model = create_backbone("recnext_m3", in_chans=4, features_only=True, out_indices=(1, 3))
    with torch.no_grad():
        outs = model.eval()(torch.randn(1, 4, 64, 64))
    assert [tuple(out.shape[1:]) for out in outs] == [(128, 8, 8), (512, 2, 2)]
    assert (model.out_channels, model.strides) == ((128, 512), (8, 32))
    with pytest.raises(ValueError, match="features_only=False has no meaning"):
        create_backbone("dfvt_t", features_only=False)


def test_init_weights_reads_what_init_cfg_names(tmp_path):
    """Of a class that is used directly; the constructor reads nothing."""
    weights = create_backbone("dfvt_t").state_dict()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    program = """
import sys
from models_mm.backbones import dfvt_t
model = dfvt_t(init_cfg=dict(type="Pretrained", checkpoint=sys.argv[1]))
model.init_weights()
print(float(sum(value.double().sum() for value in model.state_dict().values())))
"""
    done = run(WITHOUT_HOST + program, tmp_path / "weights.pth")
    total = float(sum(value.double().sum() for value in weights.values()))
    assert done.stdout.strip() == str(total), done.stderr
