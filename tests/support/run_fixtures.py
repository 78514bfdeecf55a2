"""How tests stop a run in the middle."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_before(stage: str) -> Iterator[None]:
    """A run of this process that is not quiet ends, as by Ctrl-C, when it says that a stage begins."""

    def stop(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith(f"{stage}: "):
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("clipstill")
    logger.addFilter(stop)
    try:
        yield
    finally:
        logger.removeFilter(stop)
