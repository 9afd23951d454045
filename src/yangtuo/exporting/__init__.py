"""What other programs need to serve a model as it was trained: templates, Modelfile, GGUF, plain LoRA, server check."""
