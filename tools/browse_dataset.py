"""Draw the training data as the model sees it: after all augmentation."""

from _checkout import tool

if __name__ == "__main__":
    tool("browse_dataset")
