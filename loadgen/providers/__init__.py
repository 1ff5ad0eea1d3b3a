"""Simulated messaging providers; `python -m loadgen.providers` runs them."""

AND = "+"  # stands between the command lines of simulators that share a process
