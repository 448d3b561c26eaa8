"""The vocabulary of ops: `schemas.py` names them, one file per family defines them in plain PyTorch."""
