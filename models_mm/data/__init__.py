"""Labels (read safely, checked, converted, split), image files, and seeded training samples."""
