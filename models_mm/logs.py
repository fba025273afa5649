"""The log of this package: ``logging.getLogger("models_mm")``, of which rank 0 shows everything."""

import logging

from models_mm.messages import this_rank

LOGGER = logging.getLogger("models_mm")


def show() -> None:
    """Print what the package logs, as mmcv prints its own; other ranks print errors only."""
    if not LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s")
        )
        handler.addFilter(lambda record: this_rank() == 0 or record.levelno >= logging.ERROR)
        LOGGER.addHandler(handler)
        LOGGER.setLevel(logging.INFO)
