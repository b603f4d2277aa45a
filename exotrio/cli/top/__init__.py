"""The command ``top``: ``live`` polls, draws and reads keys; ``view`` and ``tables`` lay out a screen."""
