"""Logging of the command line: to standard error, so that standard output stays the result's."""

from __future__ import annotations

import logging
import sys
import time


def configure_logs(*, verbose: int, quiet: bool = False) -> None:
    """Send log lines of exotrio to standard error.

    Args:
        verbose: 0 for INFO, 1 or more for DEBUG.
        quiet: Only warnings and errors.
    """
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger("exotrio")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
