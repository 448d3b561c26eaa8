"""What a user starts: `LLM` and the server, and the assembly of an engine that both share."""
