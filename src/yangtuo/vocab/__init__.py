"""Vocabularies that grow: sentencepiece models merged or trained, a model's rows resized to fit, tokens counted."""
