"""The version of the package, which the build reads from here."""

from __future__ import annotations

VERSION = "0.1.0"
__version__ = VERSION
"""As in the stock SDK."""
