"""Command lines: the console command `rljax`, and `launch`, the main function of an experiment.

They parse flags, report errors in one line and set the exit status; the work is done by other packages,
all of which may be imported here. Import `rljax.commands.launch` or `rljax.commands.main`.
"""

__all__ = ["launch", "main"]
