"""Simulated messaging providers; `python -m simulators` runs them."""

AND = "+"  # stands between the command lines of simulators that share a process
