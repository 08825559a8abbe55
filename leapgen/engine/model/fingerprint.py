"""What a model is at a moment, as far as its forward pass in eval mode can depend on it; and whether it still is that."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size}
MEMBERS = {"_parameters", "_buffers", "_modules"}
HOOKS = {"_forward_hooks", "_forward_pre_hooks"}
# Read in training only, or when weights are loaded and saved; the rest says again what stands elsewhere.
NOT_READ = {"training", "gradient_checkpointing", "_gradient_checkpointing_func", "generation_config", "model_tags",
            "warnings_issued", "_is_hf_initialized", "_non_persistent_buffers_set", "_backward_hooks", "_backward_pre_hooks",
            "_is_full_backward_hook", "leapgen_kept", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
            "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
            "_load_state_dict_post_hooks", "_require_grads_hook", "_require_grads_hooks"}
TRAINING_HOOK = "PreTrainedModel.enable_input_require_grads.<locals>.make_inputs_require_grads"
NOT_READ_OF_CONFIGS = {"_attn_implementation_internal", "use_cache"}  # a step says both itself
GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
_END = object()


class ModelChangedError(RuntimeError):
    """The model is no longer the one whose keys and values live sequences hold."""

    def __init__(self, changes: list[str], live: int) -> None:
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        super().__init__(f"the model has changed ({', '.join(changes[:3])}{more}) under live sequences ({live}), which hold "
                         "keys and values of what it was. Release them before it changes, or change it back.")
        self.changes = changes


class Same:
    """An object that equals itself alone. It is kept, so that no other can take its place in memory."""

    __slots__ = ("of",)

    def __init__(self, of: object) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return type(other) is Same and other.of is self.of


class Reading:
    """One walk over a model: ``facts`` by where they stand, and what was walked over.

    Of modules and configs every attribute counts, of other objects those that hang on a module; plain values by value, the
    contents of lists, sets and dicts one by one, tensors by identity, type, dtype, device, shape and strides.

    Args:
        addresses: where a tensor's numbers lie counts, too.
    """

    def __init__(self, model: nn.Module, addresses: bool) -> None:
        self.facts: dict[str, Any] = {}
        self.modules: list[nn.Module] = []
        self.tensors: list[Tensor] = []
        self.namespaces: list[tuple[dict[str, Any], tuple[str, ...]]] = []  # attributes, and the names of those that count
        self.tables: list[dict[Any, Any]] = []  # dicts of their own
        self.lists: list[Any] = []
        self.layout = layout_and_address if addresses else layout
        self._within: set[int] = set()  # ids of what is being read, and of objects that have been
        for name in GLOBAL_HOOKS:
            self._take(name, getattr(nn.modules.module, name))
        self._take("", model)

    def _take(self, path: str, value: Any, in_object: bool = False) -> None:
        kind = type(value)
        if kind in PLAIN:
            self.facts[path] = kind, value
        elif isinstance(value, Tensor):
            self.tensors.append(value)
            self.facts[path] = Same(value), self.layout(value)
        elif isinstance(value, (set, frozenset)):
            self.lists.append(value)
            self.facts[path] = kind, frozenset(value)
        elif id(value) in self._within:
            self.facts[path] = Same(value)
        elif isinstance(value, (dict, list, tuple)):
            self._within.add(id(value))
            if isinstance(value, dict):
                self._take_table(path, value, in_object=in_object)
            else:
                self._take_list(path, value, in_object)
            self._within.discard(id(value))
        else:
            self._take_object(path, value, in_object)

    def _take_object(self, path: str, value: Any, in_object: bool) -> None:
        """A module, a config, or anything else: the attributes of these only where they hang on a module."""
        is_module, is_config = isinstance(value, nn.Module), isinstance(value, PreTrainedConfig)
        self.facts[path or "its class"] = (
            (Same(value), type(value), Same(type(value).forward)) if is_module else Same(value))
        own = getattr(value, "__dict__", None)
        known = is_module or is_config
        if type(own) is not dict or (not known and (in_object or callable(value) or isinstance(value, Enum))):
            return
        self._within.add(id(value))  # for good: it is read once
        prefix, not_read, members = f"{path}." if path else "", set(), set()
        if is_module:
            self.modules.append(value)
            not_read, members = NOT_READ | HOOKS, MEMBERS
            for name in MEMBERS:
                self._take_table(f"{prefix}{name}", own[name], prefix)
            for name in HOOKS:
                self.tables.append(own[name])
                self.facts[f"{prefix}{name}"] = [
                    Same(hook) for hook in own[name].values() if getattr(hook, "__qualname__", "") != TRAINING_HOOK]
        elif is_config:
            not_read = NOT_READ_OF_CONFIGS
        names = tuple(name for name in own if name not in not_read)
        self.namespaces.append((own, names))
        for name in names:
            if name not in members:
                self._take(f"{prefix}{name}", own[name], in_object or not known)

    def _take_list(self, path: str, items: Sequence[Any], in_object: bool) -> None:
        self.lists.append(items)
        self.facts[path] = type(items), len(items)
        for i, item in enumerate(items):
            self._take(f"{path}[{i}]", item, in_object)

    def _take_table(self, path: str, table: dict[Any, Any], members_of: str | None = None, in_object: bool = False) -> None:
        self.tables.append(table)
        self.facts[path] = type(table), [key if type(key) in PLAIN else Same(key) for key in table]
        for i, (key, value) in enumerate(table.items()):
            name = repr(key) if type(key) in PLAIN else f"key {i}"
            self._take(f"{path}[{name}]" if members_of is None else f"{members_of}{key}", value, in_object)


class Fingerprint:
    """A model's state, to be compared with what the model is later.

    A glance compares identities only, at the speed of C. Where something is not the very same object, the model is walked
    over and compared fact by fact; what makes no difference is then known to the next glance.

    Args:
        addresses: a tensor's numbers at another place in memory are a change.
    """

    def __init__(self, model: nn.Module, addresses: bool = False) -> None:
        self._model, self._addresses = model, addresses
        self._fleeting: tuple[str, ...] = ()
        self._keep(Reading(model, addresses))

    def settle(self) -> None:
        """To be called after one more forward pass: what that has changed is no change."""
        reading = Reading(self._model, self._addresses)
        self._fleeting = tuple(self._differences(reading))
        self._keep(reading)

    def changes(self) -> list[str]:
        """Where the model is not what it was: paths of modules with the name of an attribute, parameter or buffer."""
        if self._unmoved():
            return []
        reading = Reading(self._model, self._addresses)
        found = self._differences(reading)
        if not found:
            self._keep(reading)
        return found

    @property
    def within_model(self) -> bool:
        """Whether the model still has every parameter it had."""
        had = {id(tensor) for tensor in self._reading.tensors if isinstance(tensor, nn.Parameter)}
        return had <= set(map(id, self._model.parameters()))

    def _differences(self, reading: Reading) -> list[str]:
        before, now = self._reading.facts, reading.facts
        paths = [path for path in before.keys() | now.keys() if path not in before or path not in now
                 or before[path] != now[path]]
        return sorted(path for path in paths if not any(
            path == one or path.startswith((f"{one}.", f"{one}[")) for one in self._fleeting))

    # -- the glance -------------------------------------------------------------------------------------------------

    def _keep(self, reading: Reading) -> None:
        self._reading = reading
        self._types = list(set(map(type, reading.modules)))
        alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for own, names in reading.namespaces:
            if names:
                alike[names].append(own)
        self._attributes = [(itemgetter(names[0], *names), owns) for names, owns in alike.items()]  # of two at least: tuples
        self._tables, self._lists = [one for one in reading.tables if one], [one for one in reading.lists if one]
        self._empty = [one for one in (*reading.tables, *reading.lists) if not one]
        self._sized = [own for own, _ in reading.namespaces]
        self._objects, self._sizes, self._layouts = list(self._look()), list(map(len, self._sized)), self._laid_out()

    def _look(self) -> Iterator[object]:
        return chain(map(type, self._reading.modules), map(attrgetter("forward"), self._types),
                     *(chain.from_iterable(map(get, owns)) for get, owns in self._attributes),
                     gc.get_referents(*self._tables), chain.from_iterable(self._tables), gc.get_referents(*self._lists),
                     (_END,))

    def _laid_out(self) -> list[object]:
        return list(map(self._reading.layout, self._reading.tensors))

    def _unmoved(self) -> bool:
        try:
            return (not any(self._empty) and self._sizes == list(map(len, self._sized))
                    and all(map(is_, self._objects, self._look())) and self._layouts == self._laid_out())
        except KeyError:  # an attribute less, and another in its place
            return False


def layout(tensor: Tensor) -> tuple[Any, ...]:
    try:
        return type(tensor), tensor.dtype, tensor.device, tensor.shape, tensor.stride()
    except (RuntimeError, ValueError):  # a sparse one has no strides, one that is to be made later no shape
        return type(tensor), tensor.dtype, tensor.device


def layout_and_address(tensor: Tensor) -> tuple[Any, ...]:
    try:
        return *layout(tensor), tensor.data_ptr()
    except (RuntimeError, ValueError):  # some subclasses have none
        return layout(tensor)
