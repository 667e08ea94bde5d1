"""The doors: one thin module per verb, for the shell and for `ray job submit`."""
