"""Module paths that scripts written for vLLM expect."""
