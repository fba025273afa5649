"""Detect objects in images, folders or videos: pictures, and a JSON file in COCO's form."""

from _checkout import tool

if __name__ == "__main__":
    tool("predict")
