"""The catalogue: complete, true to the configs, and the source of the documents' tables."""

import models_mm  # isort: skip  (before mmdet, which needs it)

import sys
from pathlib import Path

import pytest
import torch

from models_mm import catalogue as zoo
from models_mm.checkpoints.published import source_of
from models_mm.cli.zoo import DOCUMENTS, main
from models_mm.errors import CheckpointError, UserError
from models_mm.mmdet2.configs import ROOT, load_config, pretrained_files

ENTRIES = zoo.catalogue()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_is_true_to_its_config(entry):
    assert Path(entry.config).stem == entry.name
    cfg = load_config(entry.config)
    detectors = {"MaskRCNN": "Mask R-CNN", "RetinaNet": "RetinaNet"}
    assert entry.metadata["Detector"] == detectors[cfg.model.type]
    assert list(pretrained_files(cfg.model)) == [f"pretrain/{entry.metadata['Pretrained File']}"]
    assert ("mask AP" in entry.metrics) == ("segm" in cfg.evaluation.metric)
    assert entry.collection["Code"]["URL"] in source_of(entry.metadata["Pretrained File"])
    if checkpoint := entry.metadata.get("Checkpoint File"):
        assert entry.collection["Code"]["URL"] in source_of(checkpoint)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tables_of_the_documents_are_those_of_the_metafiles(document, tmp_path):
    copy = tmp_path / "copy.md"
    text = (ROOT / document).read_text()
    begin = text.index(" written by tools/zoo.py readme -->")
    for damaged in (text[:begin], text[:begin] + " written by tools/zoo.py readme -->stale"):
        copy.write_text(damaged)
        with pytest.raises(UserError, match="lacks the marks"):
            main(["readme", str(copy)])
        assert copy.read_text() == damaged
    copy.write_text(text.replace("| 41.7 |", "| 99.9 |"))
    main(["readme", str(copy)])
    assert copy.read_text() == text


def test_the_tables_that_are_written_by_default(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        (tmp_path / document).write_text(text.replace("| 41.7 |", "| 99.9 |"))
    monkeypatch.chdir(tmp_path)
    main(["readme"])
    for document in DOCUMENTS:
        assert (tmp_path / document).read_text() == (ROOT / document).read_text()


def test_every_backbone_has_every_detector():
    """And every published row is among the configs."""
    names = set(zoo.list_configs())
    assert {entry.name for entry in ENTRIES} <= names
    backbones = {Path(e.config).stem.partition("_fpn_")[0].split("_", 1)[1] for e in ENTRIES}
    backbones = {name.removeprefix("rcnn_") for name in backbones}
    for backbone in backbones:
        for detector in ("faster_rcnn", "mask_rcnn", "cascade_mask_rcnn", "retinanet"):
            assert f"{detector}_{backbone}_fpn_1x_coco" in names


def test_configs_by_name():
    assert models_mm.list_configs("cascade_mask_rcnn_recnext_m3") == [
        "cascade_mask_rcnn_recnext_m3_fpn_1x_coco"
    ]
    cfg = models_mm.get_config("mask_rcnn_recnext_m3_fpn_1x_coco", {"optimizer.lr": 0.5})
    assert cfg.model.backbone.type == "recnext_m3" and cfg.optimizer.lr == 0.5
    with pytest.raises(UserError, match="did you mean mask_rcnn_recnext_m3_fpn_1x_coco"):
        models_mm.get_config("mask_rcnn_recnext_m3_1x_coco")


@pytest.mark.slow
def test_list_and_show(run_tool):
    listed = run_tool(sys.executable, ROOT / "tools/zoo.py", "list").stdout
    assert all(entry.name in listed for entry in ENTRIES)
    few = run_tool(
        *(sys.executable, ROOT / "tools/zoo.py", "list", "--family", "biformer"),
        *("--detector", "mask_rcnn"),
    ).stdout
    assert [line.split()[0] for line in few.splitlines()[1:]] == [
        "mask_rcnn_biformer_s_fpn_1x_coco",
        "mask_rcnn_biformer_b_fpn_1x_coco",
    ]
    shown = run_tool(sys.executable, ROOT / "tools/zoo.py", "show", ENTRIES[0].name).stdout
    assert "box AP: 41.7" in shown and "arxiv.org/abs/2412.19628" in shown


# --- backbones without MMDetection


def test_create_backbone(tmp_path):
    source = models_mm.create_backbone("dfvt_tiny")
    path = tmp_path / "weights.pth"
    torch.save({"model": source.state_dict()}, path)
    backbone = models_mm.create_backbone("dfvt_t", pretrained=path, out_indices=(1, 3)).eval()
    image = torch.randn(1, 3, 64, 96)
    outs = backbone(image)
    assert [tuple(out.shape[1:]) for out in outs] == [(96, 8, 12), (384, 2, 3)]
    assert backbone.out_channels == (96, 384) and backbone.strides == (8, 32)
    assert torch.equal(outs[1], source.eval()(image)[3])
    with pytest.raises(CheckpointError, match="is not a checkpoint of this dfvt_s"):
        models_mm.create_backbone("dfvt_small", pretrained=path)
    with pytest.raises(UserError, match="did you mean.* recnext_m3"):
        models_mm.create_backbone("recnext_m33")
    with pytest.raises(TypeError, match="frozen"):
        models_mm.create_backbone("recnext_m3", frozen=1)


def test_torchvision_example_of_the_documents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pretrain").mkdir()
    source = models_mm.create_backbone("biformer_small")
    torch.save({"model": source.state_dict()}, "pretrain/biformer_small_best.pth")
    blocks = (ROOT / "docs/core.md").read_text().split("```python\n")[1:]
    (example,) = [block.partition("```")[0] for block in blocks if "FasterRCNN" in block]
    names = {}
    exec(example, names)
    names["model"].transform.min_size = (64,)
    images, truth = [torch.rand(3, 64, 96)], [{}]
    truth[0]["boxes"], truth[0]["labels"] = torch.tensor([[8.0, 8, 60, 40]]), torch.tensor([3])
    losses = names["model"].train()(images, truth)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in names["body"].parameters() if p.requires_grad)
    assert len(names["model"].eval()(images)) == 1
