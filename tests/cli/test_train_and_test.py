"""Training and testing by the real scripts, as a user calls them, in one process and in two."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..drawn import data_options

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"


def options(data: Path, *more: str) -> list[str]:
    """The demo's config on tiny data, every step logged."""
    return data_options(
        data,
        "log_config.interval=1",
        "lr_config.warmup_iters=1",
        # something is detected even after two steps
        "model.test_cfg.rcnn.score_thr=0.0",
        *more,
    )


@pytest.fixture(scope="module")
def trained(demo_data, run_tool, tmp_path_factory) -> Path:
    """The work dir of a training in two processes, started from a foreign folder."""
    work = tmp_path_factory.mktemp("runs") / "two"
    done = run_tool(
        ROOT / "dist_train.sh", CONFIG, 2, "--work-dir", work, *options(demo_data), cwd="/"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work


@pytest.fixture(scope="module")
def tested(demo_data, run_tool, trained) -> tuple[str, list, dict]:
    """What testing that checkpoint in two processes says, its results and its metrics."""
    out = trained / "two.pkl"
    command = (CONFIG, trained / "latest.pth", 2, "--work-dir", trained, "--out", out)
    done = run_tool(
        ROOT / "dist_test.sh", *command, "--eval", "bbox", "segm", *options(demo_data), cwd="/"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr, pickle.loads(out.read_bytes()), metrics(trained)


def metrics(work: Path) -> dict:
    return json.loads(max(work.glob("eval_*.json")).read_text())["metric"]


def records(work: Path) -> list[dict]:
    lines = [
        line for log in sorted(work.glob("*.log.json")) for line in log.read_text().split("\n")
    ]
    return [json.loads(line) for line in lines if '"mode"' in line]


def test_training_leaves_checkpoint_config_and_log(trained):
    checkpoint = torch.load(trained / "latest.pth", weights_only=True)
    assert checkpoint["meta"]["epoch"] == 1 and checkpoint["meta"]["CLASSES"][0] == "ellipse"
    assert checkpoint["optimizer"]["state"]
    assert (trained / "epoch_1.pth").is_file()
    assert "RecNeXt" in (trained / Path(CONFIG).name).read_text()


def test_two_processes_share_the_images(trained, demo_data):
    """Two images a process and step, upright and lying ones apart, those without objects out."""
    content = json.loads((demo_data / "annotations" / "instances_train2017.json").read_text())
    used = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    upright = [i["width"] / i["height"] <= 1 for i in content["images"] if i["id"] in used]
    steps = sum(-(-upright.count(kind) // 4) for kind in (True, False))
    train = [record for record in records(trained) if record["mode"] == "train"]
    assert [record["iter"] for record in train] == list(range(1, steps + 1))
    assert all(np.isfinite(record["loss"]) for record in train)


def test_tensorboard_has_losses_rate_and_ap(trained):
    events = EventAccumulator(str(trained / "tf_logs"))
    events.Reload()
    tags = events.Tags()["scalars"]
    for tag in ("train/loss", "train/loss_mask", "learning_rate", "val/bbox_mAP", "val/segm_mAP"):
        assert tag in tags


def test_tensorboard_has_pictures_of_predictions(trained):
    """Truth and prediction side by side: more than twice as wide as an image, and not blank."""
    events = EventAccumulator(str(trained / "tf_logs"))
    events.Reload()
    tags = events.Tags()["images"]
    assert len(tags) == 4 and all(tag.startswith("predictions/0") for tag in tags)
    picture = events.Images(tags[0])[0]
    pixels = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (picture.height, picture.width, 3)
    assert picture.width > 2 * 85 and pixels.std() > 10


def test_testing_prints_the_coco_table_and_writes_it(tested):
    said, _, metric = tested
    assert len(re.findall(r"Average Precision  \(AP\) @\[ IoU=0.50:0.95", said)) == 8
    assert {"bbox_mAP", "segm_mAP", "bbox_mAP_50"} <= set(metric)
    assert re.search(r"metrics: .*eval_\d+_\d+.json", said)
    assert "predicting 5 images" in said


def test_one_process_gives_the_same_results_as_two(demo_data, run_tool, trained, tested, tmp_path):
    """Images in the same order, although five do not divide by two."""
    out = tmp_path / "one.pkl"
    done = run_tool(
        *(ROOT / "tools/test.py", CONFIG, trained / "latest.pth", "--work-dir", tmp_path),
        *("--out", out, "--eval", "bbox", "segm", *options(demo_data)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, two = pickle.loads(out.read_bytes()), tested[1]
    assert len(one) == len(two) == 5
    for (boxes, _), (others, _) in zip(one, two, strict=True):
        for of_class, other in zip(boxes, others, strict=True):
            np.testing.assert_allclose(of_class, other, rtol=1e-4, atol=1e-3)
    assert metrics(tmp_path)["bbox_mAP"] == pytest.approx(tested[2]["bbox_mAP"], abs=1e-3)


@pytest.mark.slow
def test_fused_model_and_pictures(demo_data, run_tool, trained, tmp_path):
    """Folded norms find the same boxes; --show-dir writes one picture an image."""
    said = {}
    for fuse in ([], ["--fuse-conv-bn"]):
        out = tmp_path / f"{len(fuse)}.pkl"
        done = run_tool(
            *(ROOT / "tools/test.py", CONFIG, trained / "latest.pth", "--work-dir", tmp_path),
            *("--out", out, "--show-dir", tmp_path / "pictures", *fuse, *options(demo_data)),
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        said[len(fuse)] = pickle.loads(out.read_bytes())
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 5
    for (boxes, _), (fused, _) in zip(said[0], said[1], strict=True):
        assert max(map(len, boxes)) > 0
        for of_class, other in zip(boxes, fused, strict=True):
            np.testing.assert_allclose(of_class, other, rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_resuming_goes_on_where_the_run_ended(demo_data, run_tool, trained, tmp_path):
    """--resume-from continues epoch, iteration and optimizer; --auto-resume finds the newest."""
    checkpoint = torch.load(trained / "latest.pth", weights_only=True)
    common = (ROOT / "tools/train.py", CONFIG, "--work-dir", tmp_path, "--no-validate")
    common += ("--allow-config-changes",)  # the schedule becomes longer
    more = options(demo_data, "runner.max_epochs=2")
    done = run_tool(*common, "--resume-from", trained / "latest.pth", *more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    resumed = torch.load(tmp_path / "latest.pth", weights_only=True)
    assert resumed["meta"]["epoch"] == 2
    assert {r["epoch"] for r in records(tmp_path) if r["mode"] == "train"} == {2}
    first = next(iter(checkpoint["optimizer"]["state"]))
    steps = [c["optimizer"]["state"][first]["step"] for c in (checkpoint, resumed)]
    assert steps[1] > steps[0] > 0

    done = run_tool(*common, "--auto-resume", *options(demo_data, "runner.max_epochs=3"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert torch.load(tmp_path / "latest.pth", weights_only=True)["meta"]["epoch"] == 3
    assert {r["epoch"] for r in records(tmp_path) if r["mode"] == "train"} == {2, 3}


def test_load_from_starts_a_new_run_from_the_weights(demo_data, run_tool, trained, tmp_path):
    """A learning rate of zero leaves the loaded weights as they are."""
    more = options(demo_data, f"load_from={trained / 'latest.pth'}", "optimizer.lr=0.0")
    done = run_tool(ROOT / "tools/train.py", CONFIG, "--work-dir", tmp_path, "--no-validate", *more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    before = torch.load(trained / "latest.pth", weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "latest.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(before[key], after[key]) for key in before if "weight" in key)


def test_format_only_leaves_the_files(demo_data, run_tool, trained, tmp_path):
    done = run_tool(
        *(ROOT / "tools/test.py", CONFIG, trained / "latest.pth", "--work-dir", tmp_path),
        *("--format-only", *options(demo_data)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    boxes = json.loads(next(tmp_path.glob("results_*.bbox.json")).read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= set(boxes[0])
    assert next(tmp_path.glob("results_*.segm.json")).stat().st_size > 2


@pytest.mark.slow
def test_pictures_and_curves(demo_data, run_tool, trained, tested, tmp_path):
    done = run_tool(
        *(ROOT / "tools/show_results.py", CONFIG, trained / "two.pkl", "--out", tmp_path),
        *("--number", 2, "--score-thr", 0.1, *options(demo_data)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    pictures = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 2
    for picture in pictures:  # truth and prediction, each 128 or 96 wide, and a line between
        assert picture.shape[1] % 2 == 0 and picture.shape[1] > 180 and picture.std() > 10

    log = next(trained.glob("*.log.json"))
    done = run_tool(ROOT / "tools/plot_logs.py", log, "--out", tmp_path / "curves.png")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 10


def children(pid: int) -> list[int]:
    """Processes started by a process, and by those."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    direct = [int(word) for word in found.stdout.split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture
def long_run(demo_data, tmp_path):
    """A training in two processes that would go on for long, after its first steps."""
    log = tmp_path / "output"
    more = options(demo_data, "runner.max_epochs=10000", "checkpoint_config=None")
    with log.open("w") as file:
        job = subprocess.Popen(
            ["bash", ROOT / "dist_train.sh", CONFIG, "2", "--work-dir", tmp_path, "--no-validate"]
            + more,
            env={**os.environ, "PYTHON": sys.executable},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.time() + 120
    while "epoch 2/" not in log.read_text():
        assert time.time() < deadline and job.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    yield job, log
    if job.poll() is None:
        os.killpg(job.pid, signal.SIGKILL)


def ranks_of(job) -> list[int]:
    """The training processes of a job (not their data workers), in the order of their start."""
    direct = [pid for pid in children(job.pid) if "tools/train.py" in command_of(pid)]
    parents = {
        pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[1]) for pid in direct
    }
    return sorted(pid for pid, parent in parents.items() if parent not in direct)


def test_a_killed_rank_ends_the_job(long_run):
    job, log = long_run
    ranks = ranks_of(job)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert job.wait(timeout=60) == 128 + signal.SIGKILL
    assert re.search(
        rf"error: rank 1 \(process {ranks[1]} on .*\) was killed by SIGKILL", log.read_text()
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def test_ctrl_c_ends_all_ranks(long_run):
    job, log = long_run
    ranks = ranks_of(job)
    os.killpg(job.pid, signal.SIGINT)  # what a terminal does
    assert job.wait(timeout=60) == 128 + signal.SIGINT
    assert "Traceback" not in log.read_text().split("epoch 2/")[-1].split("stopped by")[-1]
    deadline = time.time() + 20
    while any("train.py" in command_of(pid) for pid in ranks):
        assert time.time() < deadline
        time.sleep(0.2)


def test_training_data_after_augmentation(demo_data, run_tool, tmp_path):
    """An image that is in the data twice, four draws of each: rows and columns that differ."""
    content = json.loads((demo_data / "annotations/instances_train2017.json").read_text())
    image = content["images"][0]
    content["images"] = [image, {**image, "id": 77}]
    objects = [one for one in content["annotations"] if one["image_id"] == image["id"]]
    twins = [{**one, "image_id": 77, "id": one["id"] + 10**6} for one in objects]
    content["annotations"] = objects + twins
    (tmp_path / "twice.json").write_text(json.dumps(content))
    done = run_tool(
        *(ROOT / "tools/browse_dataset.py", CONFIG, "--number", 2, "--draws", 4),
        *("--out", tmp_path / "samples.png"),
        *options(demo_data, f"data.train.ann_file={tmp_path / 'twice.json'}"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    picture = cv2.imread(str(tmp_path / "samples.png"))
    assert picture.shape[0] > 2 * 150 and picture.shape[1] > 4 * 120
    left, right = np.split(picture[:, : picture.shape[1] // 4 * 4], 2, axis=1)
    assert (left != right).mean() > 0.05
    upper, lower = np.split(picture, 2)
    assert (upper != lower).mean() > 0.05


@pytest.mark.slow
def test_errors_and_confusions(demo_data, run_tool, trained, tested, tmp_path):
    done = run_tool(
        *(ROOT / "tools/analyze_results.py", CONFIG, trained / "two.pkl", "--out", tmp_path),
        *("--score-thr", 0.1, *options(demo_data)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = [line for line in done.stdout.splitlines() if line.endswith(".png")]
    assert len(said) == 1 + 2 * 4
    for path in said:
        assert cv2.imread(path).std() > 10
    assert not list(tmp_path.glob("*.json"))
