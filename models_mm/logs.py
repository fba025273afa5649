"""The log of this package: ``logging.getLogger("models_mm")``, of which rank 0 shows everything."""

import logging
from pathlib import Path

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


# ``extra=`` of a line of log that is for the file, and not for the terminal.
FILE_ONLY = {"file_only": True}
PACKAGE = str(Path(__file__).parent)


def is_for_terminal(record: logging.LogRecord) -> bool:
    """Whether a terminal shows a line of log that is no warning: one line, from this package."""
    own = record.pathname.startswith(PACKAGE) and not hasattr(record, "file_only")
    return own and "\n" not in record.getMessage()
