"""Ends a child process that a node forked where it would leave the code of the node."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn


class ends_forked_children:
    """Run code of ``node`` in the body. A child process that it forks ends where it would leave the body.

    It would go on as a copy of this process: another runtime with the same identity and connections,
    or a worker process to which nothing is sent and which never ends.
    """

    __slots__ = ("_node", "_ours")

    def __init__(self, node: str) -> None:
        self._node, self._ours = node, os.getpid()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if os.getpid() != self._ours:
            _end(self._node, error)


def _end(node: str, error: BaseException | None) -> NoReturn:
    status = 1
    with suppress(BaseException):  # whatever happens here, the process has to end
        code = error.code if isinstance(error, SystemExit) else "no exit code"
        if code is None or isinstance(code, int):
            status = (code or 0) & 0xFF  # as Python ends
        else:
            did = "returned" if error is None else f"raised {type(error).__name__}"
            what = f"process {os.getpid()}, which {node} forked, {did}: it ends here, without a result"
            # Not logged: a handler may need a thread that is not in the child.
            print(f"exotrio: {what}; end it by os._exit", file=sys.__stderr__)
        for stream in (sys.stdout, sys.stderr, sys.__stderr__):
            if stream is not None:
                stream.flush()
    os._exit(status)
