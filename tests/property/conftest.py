"""The profiles: ``short`` unless ``--hypothesis-profile=long`` asks for a deep run."""

from tests.support import hypothesis_profiles  # noqa: F401 - registers them
