"""Readers of labelled images in the formats of COCO, YOLO and Pascal VOC."""
