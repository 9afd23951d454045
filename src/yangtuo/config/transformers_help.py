"""What transformers says about its own options. Loads transformers, so import it only where help is printed."""

from dataclasses import fields

from transformers import TrainingArguments

SENTENCES: dict[str, str] = {field.name: field.metadata.get("help", "") for field in fields(TrainingArguments)}
