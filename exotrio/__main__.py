"""``python -m exotrio``."""

import sys

try:
    from exotrio.cli import main

    main()
except ModuleNotFoundError as _error:
    # Most often a Python other than that of the environment, started in a clone. A user's module that lacks
    # one is told of by ``cli.load``.
    if (_error.name or "exotrio").partition(".")[0] == "exotrio":
        raise
    sys.exit(
        f"error: {sys.executable} has no {_error.name}, which exotrio needs\n"
        "use the Python that exotrio was installed for, such as .venv/bin/python, or install it for this one:"
        f" {sys.executable} -m pip install ."
    )
