"""Subcommands of the `ozone` command, one file each."""
