"""Hypothesis profiles: ``short`` unless ``--hypothesis-profile=long`` asks for a deep run."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast the machine is, is not tested.
both = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("short", both, max_examples=24)
settings.register_profile("long", both, max_examples=3000)
settings.load_profile("short")
