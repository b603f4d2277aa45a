"""The commands, one thin module each: options, help, output. Their work is done by the packages of ``cli``.

Each module has a ``command``; a group of commands (``runs ls``, ``runs show``) is one ``command`` too. No
command imports from another one.
"""
