"""Replace a function of mmcv or mmdet wherever it has been imported to."""

import sys


def replace_everywhere(old: object, new: object) -> None:
    """Rebind every module attribute of mmcv and mmdet that is ``old`` to ``new``.

    ``from x import f`` copies the binding, so patching only the module that defines ``f`` would
    leave the copies behind.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("mmcv", "mmdet") or module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is old:
                setattr(module, attribute, new)
