"""What `-cc.debug_dump_path` writes: what was made of a model, step by step, for people to read."""
