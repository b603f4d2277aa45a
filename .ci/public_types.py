"""Check with pyright that every public name has a type, and that all type checkers infer the same one.

Public is what ``__all__`` of ``PUBLIC`` lists. Everything that these names refer to counts too, but for
the modules of the state manager and the command line: they are private, though they have no underscore.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

PUBLIC = ("", ".errors", ".client", ".testing", ".monitoring", ".manager")


def main() -> int:
    """Print every problem and return an exit code."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--verifytypes", "exotrio"]
    # pyright does not follow the path file of an editable installation.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [*command, "--ignoreexternal", "--outputjson"], capture_output=True, text=True, env=environment
    )
    found = {each["name"]: each for each in json.loads(done.stdout)["typeCompleteness"]["symbols"]}
    public = {
        f"exotrio{module}.{name}" for module in PUBLIC for name in import_module(f"exotrio{module}").__all__
    }
    problems = [f"{name}: pyright does not find it" for name in sorted(public - found.keys())]
    for name, symbol in found.items():
        if name not in public and name.startswith(("exotrio.manager.", "exotrio.cli.")):
            continue
        if symbol["isTypeAmbiguous"] or not symbol["isTypeKnown"]:
            texts = [" ".join(each["message"].split()) for each in symbol["diagnostics"]]
            problems.append(f"{name}: {'; '.join(texts) or 'refers to one of the others'}")
    print(*problems, f"{len(public)} public names, {len(problems)} problems", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
