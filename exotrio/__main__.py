"""``python -m exotrio``."""

from exotrio.cli import main

main()
