"""What this machine can do: instruction set, cores, memory. Kernels are the native room's to tell."""
