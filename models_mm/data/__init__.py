"""COCO files: read safely, checked; images; training samples that repeat."""
