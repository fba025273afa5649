"""DFvT's published files: what they have and lack, and tables of another window."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which does not import without it)

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import build_backbone

from models_mm.checkpoints import load_pretrained, read_checkpoint
from models_mm.errors import CheckpointError

OUTPUTS = ("conv1x1layers.", "norm0.", "norm1.", "norm2.", "norm3.")
TABLE = "layers.1.blocks.0.attn.relative_position_bias_table"
INDEX = "layers.1.blocks.0.attn.relative_position_index"


def detection_entries(name: str) -> dict:
    """Names and shapes of a detection backbone with values of its own."""
    generator = torch.Generator().manual_seed(5)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in build_backbone(dict(type=name)).state_dict().items()
    }


def classification_entries(name: str) -> dict:
    """What the authors' classifier has: no outputs, but a head, and masks in the base model."""
    entries = {k: v for k, v in detection_entries(name).items() if not k.startswith(OUTPUTS)}
    channels = entries["convlayers.3.conv1.0.weight"].shape[0]
    entries |= {"norm.weight": torch.rand(channels), "norm.bias": torch.rand(channels)}
    entries |= {"head.weight": torch.rand(1000, channels), "head.bias": torch.rand(1000)}
    if name == "dfvt_b":
        entries["layers.0.blocks.1.attn_mask"] = torch.zeros(16, 49, 49)
        entries["layers.1.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return entries


@pytest.fixture
def save(tmp_path):
    def write(content, name="file.pth"):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def backbone():
    return build_backbone(dict(type="dfvt_t"))


@pytest.fixture(scope="module")
def published():
    return classification_entries("dfvt_t")


def load(backbone, path) -> dict:
    """The state after loading, and before where the file has nothing."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_pretrained(backbone, path)
    assert not all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())
    return before


def assert_state(backbone, expected: dict):
    state = backbone.state_dict()
    assert state.keys() == expected.keys()
    assert [key for key in state if not torch.equal(state[key], expected[key])] == []


def assert_refused(backbone, path, *patterns):
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_pretrained(backbone, path)
    for pattern in (path, *patterns):
        assert pattern in str(error.value)
    assert_state(backbone, before)


@pytest.mark.parametrize("name", ["dfvt_t", "dfvt_s", "dfvt_b"])
def test_classification_file(name, save):
    backbone, entries = build_backbone(dict(type=name)), classification_entries(name)
    before = load(backbone, save({"model": entries, "max_accuracy": 78.29, "epoch": 299}))
    assert_state(backbone, {key: entries.get(key, value) for key, value in before.items()})


class CfgNode(dict):
    """A node of yacs, as it pickles itself."""

    def __init__(self, items):
        super().__init__(items)
        self.__dict__["__immutable__"] = True


def test_settings_of_the_authors_training(save, monkeypatch):
    """A classification file's ``config`` is an object of a package that need not be installed."""
    with monkeypatch.context() as patch:
        module = types.ModuleType("yacs.config")
        module.CfgNode = CfgNode
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        patch.setattr(CfgNode, "__module__", "yacs.config")
        config = CfgNode({"AMP": "O1", "MODEL": CfgNode({"DEPTHS": [1, 1, 2, 1]})})
        path = save({"model": {"weight": torch.ones(2)}, "config": config})
    assert read_checkpoint(path)["config"] == {"AMP": "O1", "MODEL": {"DEPTHS": [1, 1, 2, 1]}}


@pytest.mark.parametrize("layout", ["state_dict", "model", "bare"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.encoder."])
def test_detection_file(backbone, save, layout, prefix):
    entries = detection_entries("dfvt_t")
    content = {prefix + key: value for key, value in entries.items()}
    if prefix:
        content["neck.weight" if "backbone" in prefix else prefix + "norm.bias"] = torch.rand(384)
    load(backbone, save(content if layout == "bare" else {layout: content}))
    assert_state(backbone, entries)


def test_detection_file_for_fewer_outputs(save):
    backbone, entries = (
        build_backbone(dict(type="dfvt_t", out_indices=(1, 2))),
        detection_entries("dfvt_t"),
    )
    load(backbone, save({"model": entries}))
    unused = ("norm0.", "norm3.")
    assert_state(backbone, {k: v for k, v in entries.items() if not k.startswith(unused)})


@pytest.mark.parametrize("kind", ["classification", "detection"])
@pytest.mark.parametrize(
    "key",
    [
        "patch_embed.norm1.weight",
        "layers.0.blocks.0.select.fc_channel.2.bias",
        "convlayers.3.conv1.1.running_var",
        "multiresolution_conv.2.0.weight",
        TABLE,
    ],
)
def test_missing_key(backbone, save, kind, key):
    entries = {"classification": classification_entries, "detection": detection_entries}[kind]
    path = save({"model": {k: v for k, v in entries("dfvt_t").items() if k != key}})
    assert_refused(backbone, path, f"1 missing: {key}")


@pytest.mark.parametrize("key", ["conv1x1layers.1.weight", "norm2.bias"])
def test_detection_file_without_part_of_its_outputs(backbone, save, key):
    path = save({"model": {k: v for k, v in detection_entries("dfvt_t").items() if k != key}})
    assert_refused(backbone, path, f"neither classification nor detection: missing {key}")


@pytest.mark.parametrize(
    "key",
    [
        "head.fc.weight",
        "norm4.weight",
        "layers.2.blocks.1.attn_mask",
        "layers.0.blocks.0.attn_mask",
        "absolute_pos_embed",
    ],
)
def test_unexpected_key(backbone, published, save, key):
    path = save({"model": published | {key: torch.zeros(3)}})
    assert_refused(backbone, path, f"1 unexpected: {key}")


def test_another_variant(backbone, save):
    path = save({"model": classification_entries("dfvt_s")})
    assert_refused(backbone, path, "of another shape", "(48, 3, 3, 3) instead of (24, 3, 3, 3)")


def test_files_without_indices_and_counters(backbone, published, save):
    derived = ("relative_position_index", "num_batches_tracked")
    entries = {k: v for k, v in published.items() if not k.endswith(derived)}
    before = load(backbone, save({"model": entries}))
    assert_state(backbone, {key: entries.get(key, value) for key, value in before.items()})


def test_index_of_another_order(backbone, published, save):
    path = save({"model": published | {INDEX: published[INDEX].T.contiguous()}})
    assert_refused(backbone, path, f"{INDEX} is not that of this model's window")


@pytest.mark.parametrize("side", [12, 5])
@pytest.mark.parametrize("with_index", [True, False])
def test_bias_table_of_another_window(backbone, published, save, side, with_index):
    entries = {k: v for k, v in published.items() if with_index or k != INDEX}
    table = torch.rand((2 * side - 1) ** 2, 6)
    entries[TABLE] = table
    if with_index:
        entries[INDEX] = torch.zeros(side**2, side**2, dtype=torch.long)
    before = load(backbone, save({"model": entries}))
    state = backbone.state_dict()
    assert torch.equal(state[INDEX], before[INDEX])
    for head in range(6):
        image = table[:, head].view(1, 1, 2 * side - 1, 2 * side - 1)
        image = F.interpolate(image, size=(13, 13), mode="bicubic", align_corners=False)
        assert torch.allclose(state[TABLE][:, head], image.flatten(), atol=1e-6)


def test_smooth_bias_table_stays_what_it_is(backbone, published, save):
    """A slope along rows, and none along columns: away from the border the resized one has it."""
    rows = torch.linspace(0.5, 22.5, 23)[:, None].expand(23, 23) / 23
    load(backbone, save({"model": published | {TABLE: rows.reshape(-1, 1).repeat(1, 6)}}))
    resized = backbone.state_dict()[TABLE].view(13, 13, 6)
    expected = (torch.arange(13) + 0.5)[:, None, None].expand(13, 13, 6) / 13
    assert torch.allclose(resized[2:-2], expected[2:-2], atol=5e-3)


@pytest.mark.parametrize("shape", [(529, 3), (168, 6), (169, 3)])
def test_bias_table_of_other_heads_or_no_window(backbone, published, save, shape):
    path = save({"model": published | {TABLE: torch.zeros(shape)}})
    assert_refused(backbone, path, f"1 of another shape: {TABLE} {shape} instead of (169, 6)")


@pytest.mark.parametrize("name", ["DFvT_S_7829.pth", "DFvT_base_coco_pretrained.pth"])
def test_published_names_have_an_origin(tmp_path, name):
    with pytest.raises(CheckpointError, match="published at https://github.com/ginobilinie/DFvT"):
        read_checkpoint(tmp_path / name)
