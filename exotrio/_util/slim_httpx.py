"""httpx without its command line, whose imports (rich, pygments, click) take three quarters of the time.

Import ``httpx`` from here, or after this.
"""

from __future__ import annotations

import sys

if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # so httpx takes it for not installed
    try:
        import httpx
    finally:
        sys.modules.pop("httpx._main", None)
else:
    import httpx

__all__ = ["httpx"]
