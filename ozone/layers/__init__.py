"""The parts of a model. Each leaf knows its tensors' names in the checkpoint and loads them itself."""
