"""By name: every config, every backbone, and what was published of each row of the result tables.

Published facts stand in ``configs/<family>/metafile.yml``, in the model-index format that mim and
mmdet read; ``model-index.yml`` lists those files. Nothing of it is repeated here.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from torch import nn

from models_mm.backbones import REGISTRY, VARIANTS
from models_mm.checkpoints import load_pretrained, read_checkpoint
from models_mm.checkpoints.fetch import fetch
from models_mm.checkpoints.published import source_of, url_of
from models_mm.config_files import ROOT, config_files, spellings
from models_mm.errors import UserError

# A host framework may add backbones of its own, and load a file into the detector of a config.
host_backbones: Mapping[str, type] = {}
load_into_detector: Callable[[str, str], object] | None = None


def list_backbones(pattern: str = "") -> list[str]:
    """Names of the backbones of this package that contain ``pattern``."""
    return sorted(name for name in VARIANTS if pattern in name)


def create_backbone(
    name: str, pretrained: str | Path | bool | None = None, **settings
) -> nn.Module:
    """A backbone as a plain module, without a detector around it.

    Args:
        name: one of :func:`list_backbones` such as ``recnext_m3``; sizes may be written out or
            shortened (``biformer_small``, ``mpvit_t``).
        pretrained: checkpoint to load: the published file, or a detector's; True downloads the
            published file where it has a fixed address, and keeps it as ``torch.hub`` does.
        settings: what the constructor takes (``out_indices``, ``frozen_stages``, ``with_cp``, ...).

    Returns:
        A module: images (N, in_chans, H, W) -> one map (N, C_i, H_i, W_i) per out index, with
        ``.out_channels`` and ``.strides`` in the same order.

    Raises:
        UserError: no such variant; names similar ones. Or its file has no fixed address.
        CheckpointError: the checkpoint cannot be had or read, or is another model's.
    """
    kinds = {**host_backbones, **REGISTRY}
    kind = next((other for other in spellings(name)[1:] if other in kinds), None)
    kind = kind or known(name, kinds)
    backbone = kinds[kind](**settings)
    if pretrained is True:
        pretrained = fetch_published(pretrained_file(kind))
    if pretrained not in (None, False):
        load_pretrained(backbone, str(pretrained))
    return backbone


def pretrained_file(kind: str) -> str:
    """The name of the published file of a variant, pretrained on ImageNet.

    Raises:
        UserError: there is none.
    """
    for entry in catalogue():
        if f"_{kind}_fpn_" in entry.name:
            return entry.metadata["Pretrained File"]
    raise UserError(f"{kind} is no published variant: give the checkpoint's path")


def fetch_published(file: str, folder: str | Path | None = None) -> Path:
    """Download a published file, and check that its model loads it.

    Args:
        file: its name: of a backbone pretrained on ImageNet, or of a detector.
        folder: where to put it (default: ``torch.hub.get_dir()/checkpoints``).

    Raises:
        UserError: there is no such file, or it has no fixed address.
        CheckpointError: it cannot be downloaded, or its model does not load it.
    """
    rows = {}
    for entry in reversed(catalogue()):  # the first row of a file is to stay
        rows[entry.metadata["Pretrained File"]] = entry
    for entry in catalogue():
        if "Checkpoint File" in entry.metadata:
            rows[entry.metadata["Checkpoint File"]] = entry
    entry = rows[known(file, rows)]
    pretrained = file == entry.metadata["Pretrained File"]
    url = url_of(file) if pretrained else entry.weights
    if not url:
        source = source_of(file) or entry.collection["Code"]["URL"]
        raise UserError(
            f"{file} has no fixed address: it is published at {source}; download it, and give its "
            "path"
        )

    def accept(path: str) -> None:
        if pretrained:
            load_pretrained(REGISTRY[variant_of(entry.name)](), path)
        elif load_into_detector is not None:
            load_into_detector(entry.config, path)
        else:
            read_checkpoint(path)

    return fetch(url, folder, accept=accept)


def variant_of(config: str) -> str:
    """The backbone in a config's name: recnext_m3 of ``mask_rcnn_recnext_m3_fpn_1x_coco``."""
    name = re.sub(r"^(cascade_)?(mask|faster)_rcnn_|^retinanet_", "", config)
    return name.partition("_fpn_")[0]


@dataclass(frozen=True)
class Entry:
    """One row of a published table.

    Attributes:
        name: of the config, e.g. ``mask_rcnn_recnext_m3_fpn_1x_coco``.
        config: its path, relative to the project.
        family: e.g. ``RecNeXt``.
        metadata: backbone, detector, schedule, published costs, file names, notes.
        metrics: published figures, e.g. ``{"box AP": 41.7, "mask AP50": 60.5}``.
        weights: URL of the published checkpoint; empty when there is no fixed one.
        collection: what holds for the whole family: paper, code, licence of the weights, notes.
    """

    name: str
    config: str
    family: str
    metadata: dict
    metrics: dict
    weights: str
    collection: dict


@lru_cache
def catalogue() -> tuple[Entry, ...]:
    """Every row of the published tables, in their order."""
    entries = []
    for metafile in yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]:
        index = yaml.safe_load((ROOT / metafile).read_text())
        collections = {collection["Name"]: collection for collection in index["Collections"]}
        for model in index["Models"]:
            metrics = {}
            for result in model["Results"]:
                metrics |= result["Metrics"]
            entries.append(
                Entry(
                    name=model["Name"],
                    config=model["Config"],
                    family=model["In Collection"],
                    metadata=model["Metadata"],
                    metrics=metrics,
                    weights=model.get("Weights", ""),
                    collection=collections[model["In Collection"]],
                )
            )
    return tuple(entries)


def list_configs(pattern: str = "") -> list[str]:
    """Names of all configs, published or not, that contain ``pattern``."""
    return sorted(name for name in config_files() if pattern in name)


def get_entry(name: str) -> Entry:
    """What was published of a row.

    Raises:
        UserError: no row of that name.
    """
    entries = {entry.name: entry for entry in catalogue()}
    return entries[known(name, entries)]


def known(name: str, names) -> str:
    """``name``, if it is one of ``names``.

    Raises:
        UserError: it is not; names similar ones.
    """
    if name in names:
        return name
    similar = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {', '.join(similar)}?" if similar else ""
    raise UserError(f"unknown name: {name}{hint}")


def table(entries) -> str:
    """Entries of one family as a Markdown table, with a column for each fact that any of them has.

    Links are those of a page in ``docs/``.
    """
    columns = [("config", lambda e: f"[{title(e)}](../{e.config})")]
    columns += [("schedule", lambda e: e.metadata["Schedule"])]
    for metric in dict.fromkeys(metric for entry in entries for metric in entry.metrics):
        columns.append((metric, lambda e, metric=metric: e.metrics.get(metric, "-")))
    for key, column in COSTS.items():
        if any(key in entry.metadata for entry in entries):
            columns.append((column, lambda e, key=key: e.metadata.get(key, "-")))
    columns.append(("pretrained file", lambda e: f"`{e.metadata['Pretrained File']}`"))
    if any("Checkpoint File" in entry.metadata for entry in entries):
        columns.append(("checkpoint", checkpoint))
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|---" * len(columns) + "|"]
    for entry in entries:
        lines.append("| " + " | ".join(str(value(entry)) for _, value in columns) + " |")
    return "\n".join(lines)


COSTS = {
    "Parameters (M)": "parameters, M",
    "FLOPs (G)": "FLOPs, G",
    "Backbone Parameters (M)": "backbone parameters, M",
    "Backbone FLOPs (G)": "backbone FLOPs, G",
}


def title(entry: Entry) -> str:
    """A row as the table's first column names it."""
    return f"{entry.metadata['Detector']} {entry.metadata['Backbone']}"


def checkpoint(entry: Entry) -> str:
    """The published checkpoint's name, with a link where there is a fixed one."""
    name = entry.metadata.get("Checkpoint File")
    if name is None:
        return "-"
    return f"[{name}]({entry.weights})" if entry.weights else f"`{name}`"


def section(entries) -> str:
    """The results of one family: paper, licence, table, notes."""
    about = entries[0].collection
    paper = f"[{about['Paper']['Title']}]({about['Paper']['URL']})"
    lines = [
        f"### {entries[0].family}",
        "",
        f"{paper}; weights: {about['Code']['URL']}, licence: {about['Licence of Weights']}.",
        *about.get("Notes", ()),
        "",
        table(entries),
    ]
    notes = {}
    for entry in entries:
        if note := entry.metadata.get("Note"):
            notes.setdefault(note, []).append(title(entry))
    lines += [""] * bool(notes)
    lines += [f"* {', '.join(rows)}: {note}" for note, rows in notes.items()]
    return "\n".join(lines)


def results() -> str:
    """All results in Markdown, for a page in ``docs/``: one section per family."""
    families = dict.fromkeys(entry.family for entry in catalogue())
    return "\n\n".join(
        section([entry for entry in catalogue() if entry.family == family]) for family in families
    )


def variants() -> str:
    """A Markdown table with one line per published backbone, for the README.

    The line shows the row that all families have: Mask R-CNN with the 1x schedule.
    """
    lines = [
        "| family | backbone | name | parameters, M | box AP | mask AP |",
        "|---|---|---|---|---|---|",
    ]
    for entry in catalogue():
        if (entry.metadata["Detector"], entry.metadata["Schedule"]) != ("Mask R-CNN", "1x"):
            continue
        cells = [
            f"[{entry.family}]({entry.collection['Paper']['URL']})",
            f"[{entry.metadata['Backbone']}]({entry.config})",
            f"`{variant_of(entry.name)}`",
            entry.metadata["Backbone Parameters (M)"],
            entry.metrics["box AP"],
            entry.metrics["mask AP"],
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
