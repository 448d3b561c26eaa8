"""Runners: what turns scheduled requests into logits."""
