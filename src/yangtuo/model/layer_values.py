"""Fields of transformers' configurations whose value is not the same in every layer."""

from typing import Any

from transformers import PreTrainedConfig


def value_of(config: PreTrainedConfig, name: str) -> Any:
    """One field of a language model's configuration: a value, a list with one for each layer, or None.

    transformers 5 refuses to read a field for which layers may have values of their own (`head_dim` of Gemma 4).
    """
    try:
        return getattr(config, name, None)
    except RuntimeError:
        return config.to_dict().get(name)


def values_of_layers(config: PreTrainedConfig, name: str) -> list[Any]:
    """One field in each of the `num_hidden_layers` layers; None where a layer has no such field."""
    given, num_layers = value_of(config, name), config.num_hidden_layers
    if isinstance(given, list | tuple) and len(given) == num_layers:
        return list(given)
    own = getattr(config, "per_layer_config", None)
    if own is not None and len(own) == num_layers:
        return [getattr(own[i], name, None) for i in range(num_layers)]
    return [given] * num_layers
