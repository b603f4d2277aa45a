"""Which errors are alike: raised in the same way at the same place, whatever their messages say. Pure."""

from __future__ import annotations

import re

from exotrio._util.error_message import message_line

# Of blanks only: line ends in it would be tried again from each line, which is quadratic.
_FRAME = re.compile(r'^[ \t|+-]*(File ".*", line \d+, in .*)$', re.MULTILINE)
_NAME = re.compile(r"^[ \t|+-]*([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


def way_of(error: str) -> str:
    """Return what an error has in common with those that were raised in the same way.

    That is the frames of its traceback and the name of the exception; of an error without a traceback it
    is its message, with the numbers left out.
    """
    frames = list(_FRAME.finditer(error))
    if not frames:
        return re.sub(r"\d+", "0", message_line(error))
    # Below a frame comes its line of code, perhaps with a row of ^^^ under it, indented deeper than a name.
    rest = [line for line in error[frames[-1].end() :].splitlines() if not line.startswith("    ")]
    name = next((found[1] for line in rest if (found := _NAME.match(line))), "")
    return "\n".join([*(frame[1] for frame in frames), name])
