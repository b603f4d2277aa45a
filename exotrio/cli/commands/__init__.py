"""The commands, one thin module each: options, help, what is printed. What they do is in the rooms beside.

Each module has a ``command``; a group of commands (``runs ls``, ``runs show``) is one ``command`` too. No
command imports from another one.
"""
