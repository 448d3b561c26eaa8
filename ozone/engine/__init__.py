"""Requests, scheduling, sampling and text. Never sees a tensor library: a runner is given."""
