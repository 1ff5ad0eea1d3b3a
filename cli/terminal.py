"""The console of all commands: wide enough for whole URLs when the output is a file or a pipe."""

import sys

from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 200, soft_wrap=not sys.stdout.isatty())
