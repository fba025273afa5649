"""Compare a config with that of the run that is resumed."""

import ast
import os

from models_mm.errors import UserError

# Settings that change the result of a training ...
COMPARED = (
    *("model", "train_cfg", "test_cfg", "ema", "amp", "fp16", "custom_hooks"),
    *("data", "optimizer", "optimizer_config", "auto_scale_lr"),
    *("lr_config", "momentum_config", "runner", "workflow", "early_stopping"),
)
# ... and settings within them that do not: execution, initialisation, and unused ones
IGNORED = {
    *("workers_per_gpu", "persistent_workers", "prefetch_factor", "pin_memory", "timeout"),
    *("val_dataloader", "test_dataloader", "test", "with_cp", "init_cfg", "pretrained"),
}
LONGEST_TEXT = 1_000_000  # characters; a config has some thousands
MISSING = object()


def check_changes(meta: dict, config: str, seed: int | None, allowed: bool, logger) -> None:
    """Compare a config with that of the checkpoint from which the run resumes.

    Args:
        meta: the ``meta`` of the checkpoint; its ``config`` is parsed, never executed.
        config: the config's ``pretty_text``.
        seed: the seed of the command line, if given.
        allowed: continue in spite of differences.

    Raises:
        UserError: model, data, optimizer or schedule differ; names the settings.
    """
    before = parse(meta.get("config"))
    if before is None:
        logger.warning("the checkpoint does not hold its config: it is not compared to this one")
        return
    found = changes(before, parse(config) or {})
    if seed is not None and meta.get("seed", seed) != seed:
        found.append(_line("seed", meta["seed"], seed))
    if not found:
        return
    lines = "".join(f"\n  {line}" for line in found[:10])
    lines += f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
    if allowed:
        logger.warning(f"going on under a config that has changed:{lines}")
        return
    raise UserError(
        f"the checkpoint's run had other settings (its -> now):{lines}\n"
        "  Use its settings, start a new training without --auto-resume and --resume-from, or "
        "accept the differences with --allow-config-changes"
    )


def changes(before: dict, now: dict) -> list[str]:
    """One line per setting that differs: ``key: before -> now``."""
    names = [name for name in COMPARED if before.get(name) is not None or now.get(name) is not None]
    return [
        line for name in names for line in _differences(before.get(name), now.get(name), (name,))
    ]


def _differences(before, now, where: tuple[str, ...]) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if not _ignored(key, where)]
        return [
            line
            for key in keys
            for line in _differences(
                before.get(key, MISSING), now.get(key, MISSING), (*where, str(key))
            )
        ]
    pair = (before, now)
    if all(isinstance(v, (list, tuple)) for v in pair) and len(before) == len(now):
        return [
            line
            for i, values in enumerate(zip(before, now, strict=True))
            for line in _differences(*values, (*where, str(i)))
        ]
    return [] if before == now or _same_file(before, now) else [_line(".".join(where), before, now)]


def _ignored(key: str, where: tuple[str, ...]) -> bool:
    # mmdet passes these to the heads when it builds a detector
    handed_on = where[0] == "model" and len(where) > 1 and key in ("train_cfg", "test_cfg")
    return key in IGNORED or handed_on


def _same_file(before, now) -> bool:
    """Whether two paths name the same file, relative to different folders or through links."""
    if not (isinstance(before, str) and isinstance(now, str)):
        return False
    try:
        return os.path.samefile(before, now)
    except (OSError, ValueError):
        return False


def _line(key: str, before, now) -> str:
    return f"{key}: {_short(before)} -> {_short(now)}"


def _short(value) -> str:
    text = "(none)" if value is MISSING else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse(text) -> dict | None:
    """Parse the settings in a config's ``pretty_text`` without executing it.

    Returns:
        Names and values, as plain data; expressions that are neither literals nor ``dict(...)``
        stay source code. None if it is no such text.
    """
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        return None
    try:
        lines = ast.parse(text).body
        return {line.targets[0].id: _value(line.value) for line in lines}
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr):
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.unparse(key): _value(value) for key, value in pairs}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        parts = [_value(item) for item in node.args] + [
            {word.arg: _value(word.value)} for word in node.keywords
        ]
        return {key: value for part in parts for key, value in dict(part).items()}
    if isinstance(node, ast.Constant):
        return node.value
    return ast.unparse(node)
