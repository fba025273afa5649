"""MMDetection 2.28 on mmcv 1.7: the one room that knows them.

``compat`` makes both run on the installed PyTorch, ``registration`` makes the parts of this package
known to them; ``models_mm.host_imports`` calls both when mmcv and mmdet are imported.
"""
