"""Simulated messaging providers; `python -m simulators` runs them."""

AND = "+"  # separates the command lines of simulators that share a process
