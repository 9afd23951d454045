"""A model folder as one GGUF file, for llama.cpp and what is built on it."""
