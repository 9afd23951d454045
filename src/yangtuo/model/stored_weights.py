"""The weights of a model by the names and shapes that it computes with, whatever its files call them.

transformers renames and rearranges tensors while it loads them: experts that lie one by one become one tensor,
`embed_out` becomes `lm_head`, a prefix is added or taken away. Here its own rules do so on the tensors that belong
together, a group at a time, and, reversed, take a changed tensor apart as the files have it.

Source: `convert_and_load_state_dict_in_model` and `revert_weight_conversion`, core_model_loading.py of
transformers 5.23.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.loading_report import LoadStateDictInfo

from yangtuo.errors import ModelError, one_line
from yangtuo.i18n import Message
from yangtuo.model.architecture import beside_and_inside, empty_model, read_config
from yangtuo.model.weight_files import Spec, WeightFiles, open_weights

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Group:
    """Tensors of the files that become tensors of the model together.

    Attributes:
        sources: names in the files, each with the pattern of the rule that it fits.
        targets: names in the model; none for what lies beside it.
        rule: what makes the one out of the other; None where that is another name at most.
        names: of the sources, as the reversed rule gives them.
    """

    sources: Mapping[str, str]
    targets: tuple[str, ...]
    rule: WeightConverter | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def put_together(self, stored: Mapping[str, torch.Tensor], model: PreTrainedModel) -> Tensors:
        """Tensors of the files -> tensors of the model."""
        if self.rule is None:
            return dict(zip(self.targets, stored.values(), strict=False))
        rule = copy.deepcopy(self.rule)
        for source, pattern in self.sources.items():
            rule.add_tensor(self.targets[0], source, pattern, stored[source])
        return _single(rule.convert(self.targets[0], model=model, config=model.config))

    def taken_apart(self, tensors: Mapping[str, torch.Tensor], model: PreTrainedModel) -> Tensors:
        """The opposite.

        Raises:
            ModelError: the rule has no opposite, or not one that gives these sources.
        """
        if self.rule is None:
            return dict(zip(self.sources, tensors.values(), strict=True))
        try:
            rule = copy.deepcopy(self.rule).reverse_transform()
            for target in self.targets:
                name, pattern = rule.rename_source_key(target)
                rule.add_tensor(name, target, pattern, tensors[target])
            found = _single(rule.convert(name, model=model, config=model.config))
        except (NotImplementedError, ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
            raise self._one_way(one_line(error, 160)) from error
        prefix = f"{model.base_model_prefix}."
        apart = {self.names.get(name.removeprefix(prefix), name): value for name, value in found.items()}
        if apart.keys() != self.sources.keys():
            raise self._one_way(Message("other names come out"))
        return {source: apart[source] for source in self.sources}

    def _one_way(self, why: str) -> ModelError:
        return ModelError(
            "{targets} cannot be put back as {next} has it: {why}",
            targets=self.targets[0],
            next=next(iter(self.sources)),
            why=why,
        )


class StoredWeights:
    """The tensors of a model's folder by the model's names; read one group at a time.

    Attributes:
        folder: of the model.
        files: the tensors as they lie there.
        config: as config.json has it, of all towers.
        model: the model without weights, of several towers perhaps the one of text.
        trust_remote_code: whether code that came with it was run to make it.
        groups: what belongs together, in the order of the files.
        group_of: the group of each tensor of the model.
        specs: shape and dtype of each tensor of the model that the files hold.
        missing: tensors of the model that they do not hold.
        unused: tensors of the files which stand where the model has a place for others.
    """

    def __init__(
        self, files: WeightFiles, config: PreTrainedConfig, model: PreTrainedModel, *, trust_remote_code: bool = False
    ):
        self.folder, self.files, self.config, self.model = files.folder, files, config, model
        self.trust_remote_code = trust_remote_code
        self.groups = list(_groups(files.specs, model))
        self.group_of = {target: group for group in self.groups for target in group.targets}
        self.specs: dict[str, Spec] = {}
        for group in self.groups:
            stored = {name: _on_meta(files.specs[name]) for name in group.sources}
            found = group.put_together(stored, model)
            self.specs |= {name: Spec(tuple(value.shape), value.dtype) for name, value in found.items()}
        self._together: tuple[Group, Tensors] | None = None

    @cached_property
    def _report(self) -> LoadStateDictInfo:
        beside = [name for group in self.groups if not group.targets for name in group.sources]
        report = LoadStateDictInfo(
            missing_keys=set(self.model.state_dict()) - self.specs.keys(),
            unexpected_keys=set(beside),
            mismatched_keys=set(),
            conversion_errors={},
            error_msgs=[],
            skipped_pp_keys=set(),
        )
        self.model._adjust_missing_and_unexpected_keys(report)
        return report

    @cached_property
    def missing(self) -> list[str]:
        """See the class."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        return sorted(name for name in self._report.missing_keys if name not in tied)

    @cached_property
    def unused(self) -> list[str]:
        """See the class."""
        return beside_and_inside(self._report.unexpected_keys, self.model)[1]

    def get(self, name: str) -> torch.Tensor:
        """A tensor of the model, in the dtype of the files; not to be written to.

        Raises:
            ModelError: a file has become unreadable.
        """
        group = self.group_of[name]
        if group.rule is None:
            return self.files.get(next(iter(group.sources)))
        if self._together is None or self._together[0] is not group:
            self._together = None  # the old one goes before the new one comes
            stored = {source: self.files.get(source) for source in group.sources}
            self._together = group, _put_together(group, stored, self.model)
        return self._together[1][name]

    def name_in_files(self, name: str) -> str:
        """What the files would call a tensor of the model that they do not hold: its own name, or renamed."""
        rules = [rule.reverse_transform() for rule in reversed(_rules(self.model)) if isinstance(rule, WeightRenaming)]
        renamed: str = apply_renamings(name, rules)
        for candidate in (renamed, name):
            spec = {candidate: Spec((1,), torch.float32)}
            if any(group.targets == (name,) for group in _groups(spec, self.model)):
                return candidate
        raise ModelError("{folder}: transformers knows no name in files for {name}", folder=self.folder, name=name)


def open_stored(folder: Path, *, trust_remote_code: bool = False) -> StoredWeights:
    """Look at a model's folder; headers only.

    Raises:
        ModelError: configuration or weights cannot be used.
    """
    config = read_config(folder, trust_remote_code=trust_remote_code)
    model = empty_model(config, trust_remote_code=trust_remote_code)
    return StoredWeights(open_weights(folder), config, model, trust_remote_code=trust_remote_code)


def _groups(specs: Mapping[str, Spec], model: PreTrainedModel) -> Iterator[Group]:
    rules, state = _rules(model), model.state_dict()
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    rule_of = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix, found = model.base_model_prefix, dict[str, list[tuple[str, str | None]]]()
    for source in sorted(specs, key=dot_natural_key):
        target, pattern = rename_source_key(source, renamings, converters, prefix, state)
        if target not in state and source in state:
            target, pattern = rename_source_key(source, [], [], prefix, state)
        found.setdefault(target if target in state else Message("beside {source}", source=source), []).append(
            (source, pattern)
        )
    place = {source: i for i, source in enumerate(specs)}
    for target, members in sorted(found.items(), key=lambda each: place[each[1][0][0]]):
        sources, rule = {source: pattern or "" for source, pattern in members}, rule_of.get(members[0][1] or "")
        if target not in state:
            yield Group(sources, ())
        elif rule is None:
            if len(members) > 1:
                raise ModelError(
                    "{sources} are one tensor in the model, {target}", sources=" and ".join(sources), target=target
                )
            yield Group(sources, (target,))
        else:
            names = {apply_renamings(source, renamings).removeprefix(f"{prefix}."): source for source in sources}
            group = Group(sources, (target,), rule, names)
            stored = {source: _on_meta(specs[source]) for source in sources}
            yield replace(group, targets=tuple(_put_together(group, stored, model)))


def _put_together(group: Group, stored: Tensors, model: PreTrainedModel) -> Tensors:
    try:
        return group.put_together(stored, model)
    except (ValueError, LookupError, AttributeError, TypeError, RuntimeError) as error:
        raise ModelError(
            "{sources} cannot be put together as transformers has a {model_type} model: {error}",
            sources=", ".join(list(group.sources)[:2]),
            model_type=model.config.model_type,
            error=one_line(error, 160),
        ) from error


def _rules(model: PreTrainedModel) -> list[Any]:
    return list(get_model_conversion_mapping(model))


def _single(values: Mapping[str, Any]) -> Tensors:
    return {name: value[0] if isinstance(value, list) else value for name, value in values.items()}


def _on_meta(spec: Spec) -> torch.Tensor:
    return torch.empty(spec.shape, dtype=spec.dtype, device="meta")
