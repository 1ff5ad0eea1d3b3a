"""A package, and the only one here: hiinsta installs a package `tests` of its own, which would otherwise come before this folder."""
