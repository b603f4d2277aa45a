"""Hypothesis profiles: ``short`` unless ``--hypothesis-profile=long`` asks for a deep run."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("short", max_examples=24, deadline=None, print_blob=True)
settings.register_profile("long", max_examples=3000, deadline=None, print_blob=True)
settings.load_profile("short")
