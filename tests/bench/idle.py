"""A runtime for the idle measurement."""

from exotrio import Runtime
from tests.bench.__main__ import Fan, Step

runtime = Runtime("bench", "idle", [Fan, Step])
