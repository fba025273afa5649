"""With EMA the evaluation and its best checkpoint are of the same weights, the averaged ones."""

import json

import models_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch
from mmdet.datasets import DATASETS

from models_mm.cli import test as testing
from models_mm.cli import train as training
from models_mm.mmdet2.datasets import CocoDataset

from .conftest import TINY, checkpoint, options


@DATASETS.register_module(force=True)
class ScoredDataset(CocoDataset):
    """Its metric tells apart detectors that have hardly been trained."""

    def evaluate(self, results, logger=None, **kwargs):
        """The sum of all that is found: places and scores."""
        boxes = np.concatenate([of_class for result in results for of_class in result])
        return {"score": float(boxes.astype(np.float64).sum())}


KINDS = {
    "iterations": [
        *("runner.type=IterBasedRunner", "runner.max_epochs=None", "runner.max_iters=6"),
        *("evaluation.interval=6", "checkpoint_config.interval=6"),
    ],
    "epochs": ["runner.max_epochs=1"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_checkpoint_gives_the_logged_number(demo_data, tmp_path, kind):
    """And the weights that were trained would give another one."""
    settings = options(
        demo_data,
        *KINDS[kind],
        *("data.workers_per_gpu=0", "optimizer.lr=0.01", "ema.momentum=1e-12"),
        *("evaluation.save_best=score", "evaluation.rule=greater"),
        *("data.val.type=ScoredDataset", "data.test.type=ScoredDataset"),
    )
    training.main([TINY, "--work-dir", str(tmp_path), "--seed", "1", *settings])
    (log,) = tmp_path.glob("*.log.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (logged,) = [record["score"] for record in records if record.get("mode") == "val"]

    (best,) = tmp_path.glob("best_score_*.pth")
    averaged, regular = checkpoint(tmp_path, best.name), checkpoint(tmp_path)
    measured = averaged["meta"]["hook_msgs"]["best_score"]
    assert logged == round(measured, 5)  # as mmcv's log writes it
    weights = averaged["state_dict"]
    assert all(torch.equal(value, regular["state_dict"][name]) for name, value in weights.items())

    trained = {
        name: weights.get(f"ema_{name.replace('.', '_')}", value)
        for name, value in weights.items()
        if not name.startswith("ema_")
    }
    torch.save({**averaged, "state_dict": trained}, tmp_path / "trained.pth")

    def tested(name: str) -> float:
        work = tmp_path / f"test_of_{name}"
        arguments = [TINY, str(tmp_path / name), "--work-dir", str(work), "--eval", "score"]
        testing.main([*arguments, *settings])
        (found,) = work.glob("eval_*.json")
        return json.loads(found.read_text())["metric"]["score"]

    assert tested(best.name) == measured
    assert abs(tested("trained.pth") - measured) > 1
