"""Faults. ``python -m tests.chaos`` injects them into real processes, many of them; see ``__main__``."""
