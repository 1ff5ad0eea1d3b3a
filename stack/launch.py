"""Runs a module as `python -m` does, in two steps: what it imports first, the module itself when it is told to go on.

`python -m stack.launch IMPORTED[,IMPORTED...] MODULE [ARG ...]`. Enters: the end of standard input, which says go on; there is none to
wait for when it is /dev/null, so a program that is started again begins at once. Guaranteed: the program sees its own arguments,
as if it had been started by `python -m MODULE`. With it, programs import while their servers start.
"""

import importlib
import runpy
import sys
from collections.abc import Sequence


def in_two_steps(argv: Sequence[str], preload: Sequence[str]) -> list[str]:
    """The command line that runs `argv`, which is `python -m MODULE ...`, with the modules `preload` imported first."""
    python, flag, *program = argv
    if flag != "-m":
        raise ValueError(f"only python -m can be started in two steps, not {' '.join(argv)}")
    return [python, "-m", "stack.launch", ",".join(preload), *program]


def main() -> None:
    preload, module, *arguments = sys.argv[1:]
    for name in preload.split(","):
        importlib.import_module(name)
    sys.stdin.read()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
