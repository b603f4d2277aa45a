"""The command ``top``. Import ``live.show_live`` and ``screen`` from here.

* ``live`` polls, draws and reads keys. A key or a signal ends it, and it restores the terminal in any case.
  While the state manager is not reachable, it says so and polls again.
* ``screen`` is pure: it lays out an overview in lines that fit a width and a height. A column that does not
  fit is left out, after names have become shorter (``table``).
"""
