"""COCO files (read safely, checked), image files, and seeded training samples."""
