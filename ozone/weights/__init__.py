"""Model files: finding, checking and reading them. Torch-free."""
