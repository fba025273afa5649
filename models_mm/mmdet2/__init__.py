"""MMDetection 2.28 on mmcv 1.7: the one room that knows them."""
