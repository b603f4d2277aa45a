"""The command ``top``. Import ``live.show_live`` and ``screen`` from here.

* ``live`` polls, draws and reads keys. It ends by a key or a signal, and restores the terminal in any case;
  a state manager that is not reachable is shown and polled again.
* ``screen`` is pure: it lays out an overview in lines that fit a width and a height. A column that does not
  fit is left out, after names have become shorter.
"""
