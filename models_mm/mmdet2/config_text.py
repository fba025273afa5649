"""Write a config as one Python file that a person reads from top to bottom, without base files."""

import keyword
import os
import re
from collections.abc import Mapping

from mmcv import Config

from models_mm.errors import UserError, printable

WIDTH = 100
# The settings in their order, with a heading for each group. Other names of a config are variables
# of its pipelines, whose values stand there already.
GROUPS = {
    "The run": ("custom_imports", "work_dir", "seed", "load_from", "resume_from", "auto_resume"),
    "Data": ("data",),
    "Model": ("model", "train_cfg", "test_cfg"),
    "Schedule": (
        *("runner", "optimizer", "auto_scale_lr", "optimizer_config", "lr_config"),
        *("momentum_config", "ema", "amp", "fp16"),
    ),
    "Evaluation, checkpoints and logs": (
        *("evaluation", "early_stopping", "checkpoint_config", "log_config", "custom_hooks"),
    ),
    "Execution": (
        *("workflow", "dist_params", "find_unused_parameters", "log_level", "opencv_num_threads"),
        *("mp_start_method", "cudnn_benchmark", "channels_last", "compile", "faults"),
    ),
}
NEEDED = ("load_from", "resume_from")  # mmdet asks for them
FOLDER = "{{ fileDirname }}"  # mmcv puts the folder of the file here


class Expression(str):
    """Source code that stands for a value."""


def config_text(cfg: Config, reasons: Mapping[str, list[str]], title: list[str]) -> str:
    """The text of a config file.

    Args:
        cfg: the settings; ``work_dir`` is the folder that the file will be in.
        reasons: lines about settings, which become comments above them.
        title: lines about the whole.

    Raises:
        UserError: the path of the folder has a character that would end a text in the file.
    """
    folder = cfg.work_dir
    if any(letter in folder for letter in '"\\{') or not folder.isprintable():
        raise UserError(
            f"{printable(folder)}: a config cannot name a folder with quotes, braces or backslashes"
        )
    settings = dict(cfg._cfg_dict)
    lines = [*(f"# {harmless(line)}" for line in title), ""]
    for heading, names in GROUPS.items():
        present = [name for name in names if settings.get(name) is not None or name in NEEDED]
        if not present:
            continue
        lines += [f"# {'-' * 4} {heading}", ""]
        for name in present:
            lines += comments(reasons.get(name, ()))
            value = settings.get(name)
            if name == "model":  # in the order of the data's way
                first = {key: value[key] for key in ("type", "backbone", "neck") if key in value}
                value = {**first, **value}
            if name == "work_dir":
                lines.append(f'work_dir = "{FOLDER}"  # of this file')
            elif name == "data":
                lines += data_lines(value, folder)
            else:
                lines.append(f"{name} = {source(value, len(name) + 3)}")
        lines.append("")
    return "\n".join(lines)


def comments(reasons: list[str]) -> list[str]:
    """Reasons as comments of lines that are not too long."""
    lines = []
    for reason in reasons:
        line = "#"
        for word in harmless(reason).split():
            if len(line) + 1 + len(word) > WIDTH:
                lines.append(line)
                line = "#  "
            line += f" {word}"
        lines.append(line)
    return lines


def harmless(line: str) -> str:
    """A line as a comment: it ends where it ends, and mmcv replaces nothing in it."""
    return re.sub(r"\{(?=\{)", "{ ", printable(line))


def data_lines(data: dict, folder: str) -> list[str]:
    """The data sets; classes and pipelines, which several of them have, are written once."""
    named: dict[str, object] = {}

    def shared(name: str, value: object) -> Expression:
        """A variable for a value: the one that has it already, or a new one."""
        for other, known in named.items():
            if known == value:
                return Expression(other)
        while name in named:
            name += "_2"
        named[name] = value
        return Expression(name)

    def rewritten(dataset: dict, split: str) -> dict:
        """A data set whose parts are variables."""
        new = dict(dataset)
        for key, value in dataset.items():
            if key == "dataset":
                new[key] = rewritten(value, split)
            elif key == "pipeline":
                new[key] = shared(f"{split}_pipeline", value)
            elif key == "classes":
                new[key] = shared("classes", tuple(value))
            elif key == "ann_file" and value.startswith(folder + os.sep):
                new[key] = Expression(f"work_dir + {quoted(value[len(folder) :])}")
        return new

    sets = {split: rewritten(data[split], split) for split in ("train", "val", "test")}
    lines = [f"{name} = {source(value, len(name) + 3)}" for name, value in named.items()]
    return [*lines, f"data = {source({**data, **sets}, 7)}"]


def source(value: object, used: int = 0, indent: int = 0) -> str:
    """A value as source code, in one line if it fits.

    Args:
        value: dicts, lists, tuples and plain values.
        used: letters before it in its first line.
        indent: of that line.
    """
    flat = in_one_line(value)
    if used + indent + len(flat) + 1 <= WIDTH or not isinstance(value, (Mapping, list, tuple)):
        return flat
    inner, more = " " * (indent + 4), indent + 4
    if not isinstance(value, Mapping):
        items = [f"{inner}{source(item, 0, more)},\n" for item in value]
        begin, end = ("[", "]") if isinstance(value, list) else ("(", ")")
    elif has_names(value):
        items = [f"{inner}{k}={source(v, len(k) + 1, more)},\n" for k, v in value.items()]
        begin, end = "dict(", ")"
    else:
        keys = {in_one_line(key): item for key, item in value.items()}
        items = [f"{inner}{k}: {source(v, len(k) + 2, more)},\n" for k, v in keys.items()]
        begin, end = "{", "}"
    return f"{begin}\n{''.join(items)}{' ' * indent}{end}"


def in_one_line(value: object) -> str:
    """A value as source code in one line."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping) and has_names(value):
        return f"dict({', '.join(f'{k}={in_one_line(v)}' for k, v in value.items())})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{in_one_line(k)}: {in_one_line(v)}' for k, v in value.items())}}}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(in_one_line, value))
        if isinstance(value, list):
            return f"[{items}]"
        return f"({items},)" if len(value) == 1 else f"({items})"
    return repr(value)


def has_names(value: Mapping) -> bool:
    """Whether all keys of a dict can be keywords of a call."""
    return all(isinstance(k, str) and k.isidentifier() and not keyword.iskeyword(k) for k in value)


def quoted(text: str) -> str:
    """A text in double quotes where that is the same."""
    plain = text.isprintable() and not set(text) & set('"\\')
    return (f'"{text}"' if plain else repr(text)).replace("{{", r"\x7b\x7b")
