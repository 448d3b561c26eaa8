"""Compilation: one trace of a model, rewritten by passes, split at attention, lowered to programs."""
