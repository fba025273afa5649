"""Run command lines in forked children: ``python -m tests.soak.in_children FOLDER SECONDS``.

FOLDER holds ``tasks.json``; number N's exit code (-1: too long) goes to ``N.code``, what it prints
to ``N.txt``, and what it writes into the folder ``N``. ``changed.json`` lists the inputs that a
command has changed.
"""

import json
import os
import pickle
import runpy
import signal
import sys
import time
from pathlib import Path

import models_mm  # noqa: F401  isort: skip
import torch
from mmcv.runner import save_checkpoint
from mmdet.models import build_detector

from models_mm.mmdet2 import pictures, testing, training  # noqa: F401
from models_mm.mmdet2.configs import load_config
from models_mm.visualization import curves  # noqa: F401
from tests.drawn import draw

ROOT = Path(__file__).resolve().parents[2]


def make_inputs(folder: Path) -> None:
    """What the command lines name with ``@``: right ones and broken ones."""
    folder.mkdir()
    data = draw(folder / "data", train=4, val=3, size="128x96")
    tiny = folder / "tiny.py"
    paths = [
        f"{split} = dict(ann_file='{data}/annotations/instances_{year}.json', "
        f"img_prefix='{data}/{year}/')"
        for split, year in (("train", "train2017"), ("val", "val2017"))
    ]
    tiny.write_text(
        f"_base_ = '{ROOT}/tests/runs/tiny.py'\n" + "\n".join(paths) + "\n"
        "data = dict(train=train, val=val, test=val, workers_per_gpu=0)\n"
        "runner = dict(max_epochs=1)\n"
    )
    cfg = load_config(str(tiny))
    torch.manual_seed(0)
    model = build_detector(cfg.model)
    save_checkpoint(model, str(folder / "weights.pth"), meta=dict(CLASSES=cfg.classes))
    save_checkpoint(model.backbone, str(folder / "backbone.pth"))
    (folder / "results.pkl").write_bytes(pickle.dumps([[]]))
    for name, content in BROKEN_CONFIGS.items():
        (folder / name).write_bytes(content)
    (folder / "text.txt").write_text("nothing but a text\n")
    (folder / "empty.json").write_text("{}")
    (folder / "list.json").write_text("[1, 2]")
    (folder / "numbers.log.json").write_text('{"mode": "train"}\n')
    (folder / "folder").mkdir()
    (folder / "cut.pth").write_bytes((folder / "weights.pth").read_bytes()[:5000])


BROKEN_CONFIGS = {
    "syntax.py": b"model = dict(\n",
    "raises.py": b"raise ValueError('of its own')\n",
    "leaves.py": b"import sys\nsys.exit()\n",
    "itself.py": b"_base_ = './itself.py'\n",
    "orphan.py": b"_base_ = './nowhere.py'\n",
    "binary.py": bytes(range(256)),
    "empty.py": b"",
    "number.py": b"model = 3\ndata = dict()\n",
    "list.py": b"model = dict(type='RetinaNet')\ndata = []\n",
    "no_data.py": b"model = dict(type='RetinaNet')\n",
    "no_pipeline.py": b"_base_ = './tiny.py'\ndata = dict(train=dict(_delete_=True, "
    b"type='CocoDataset', ann_file='x.json'))\n",
    "no_optimizer.py": b"_base_ = './tiny.py'\noptimizer = None\n",
    "import.py": b"_base_ = './tiny.py'\ncustom_imports = dict(imports=['nowhere_to_be_found'])\n",
    "hooks.py": b"_base_ = './tiny.py'\ncustom_hooks = [dict(type='Nope')]\n",
    "hooks_typeless.py": b"_base_ = './tiny.py'\ncustom_hooks = [dict(interval=3)]\n",
    "hooks_text.py": b"_base_ = './tiny.py'\ncustom_hooks = ['EMAHook']\n",
    "transform.py": b"_base_ = './tiny.py'\ndata = dict(train=dict(pipeline=[dict(type='LoadImag"
    b"eFromFil')]))\n",
    "no_transform.py": b"_base_ = './tiny.py'\ndata = dict(train=dict(pipeline=3))\n",
    "logger.py": b"_base_ = './tiny.py'\nlog_config = dict(hooks=[dict(type='TextLogger')])\n",
}


def run(number: int, environment: dict, words: list[str], folder: Path, limit: float) -> None:
    """One command line in a process group of its own."""
    place = folder / str(number)
    place.mkdir()
    pid = os.fork()
    if not pid:
        child(environment, words, place)
    code, end = None, time.monotonic() + limit
    while code is None and time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if done else None
        time.sleep(0.01)
    try:
        os.killpg(pid, signal.SIGKILL)  # whatever it has left running
    except ProcessLookupError:
        pass
    if code is None:
        os.waitpid(pid, 0)
    (folder / f"{number}.code").write_text(str(-1 if code is None else code))


def child(environment: dict, words: list[str], place: Path) -> None:
    """Become the command; never returns."""
    os.setsid()
    os.chdir(place)
    os.environ.update(environment)
    output = os.open(f"{place}.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    if words[0].endswith(".sh"):
        script = str(ROOT / words[0])
        os.environ["PYTHON"] = environment.get("PYTHON", sys.executable)
        os.execvp("bash", ["bash", script, *words[1:]])
    tool = ROOT / "tools" / f"{words[0]}.py"
    sys.argv = [str(tool), *words[1:]]
    sys.path.insert(0, str(tool.parent))  # as Python does for a script
    code = 0
    try:
        if tool.is_file():
            runpy.run_path(str(tool), run_name="__main__")
        else:  # a command of the console alone
            sys.argv = ["models_mm", *words]
            runpy.run_module("models_mm", run_name="__main__")
    except SystemExit as left:
        code = left.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def state(folder: Path) -> dict[str, tuple]:
    """Size and time of every file."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def main() -> None:
    folder, limit = Path(sys.argv[1]), float(sys.argv[2])
    make_inputs(folder / "inputs")
    before = state(folder / "inputs")
    for number, (environment, words) in enumerate(json.loads((folder / "tasks.json").read_text())):
        run(number, environment, words, folder, limit)
    after = state(folder / "inputs")
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    (folder / "changed.json").write_text(json.dumps([c for c in changed if "__pycache__" not in c]))


if __name__ == "__main__":
    main()
