"""What a model is at a moment: every change that matters is seen and named, what does not matter is not, in little time."""

import copy
import gc
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass, field

import pytest
import tiny
import torch
from torch import nn

from leapgen.engine.model.fingerprint import Fingerprint
from leapgen.engine.model.locks import Locks


@dataclass
class Settings:
    scale: float = 1.0
    names: list = field(default_factory=lambda: ["a"])


class Odd(nn.Module):
    """What modules of other libraries have in their attributes."""

    def __init__(self):
        super().__init__()
        self.active, self.scaling, self.merged = "one", {"one": 2.0}, []
        self.kinds, self.nested, self.settings = {"a"}, {"x": [1, (2, {"y": 3})]}, Settings()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("table", torch.zeros(2, 3))
        self.plain, self.listed = torch.zeros(2), [nn.Linear(2, 2)]
        self.inner = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
        self.itself = [self]

    def forward(self, x):
        return x


def set_attribute(name, value):
    return lambda odd: setattr(odd, name, value)


CHANGES = {
    "active": ("active", set_attribute("active", "two")),
    "a flag for a number": ("scaling['one']", lambda odd: odd.scaling.update(one=True)),
    "a number in a dict": ("scaling['one']", lambda odd: odd.scaling.update(one=3.0)),
    "a key": ("scaling", lambda odd: (odd.scaling.update(two=odd.scaling.pop("one")))),
    "a list": ("merged", lambda odd: odd.merged.append("one")),
    "a set": ("kinds", lambda odd: odd.kinds.add("b")),
    "deep inside": ("nested['x'][1][1]['y']", lambda odd: odd.nested["x"][1][1].update(y=4)),
    "an object's attribute": ("settings.scale", lambda odd: setattr(odd.settings, "scale", 2.0)),
    "an object's list": ("settings.names[0]", lambda odd: odd.settings.names.__setitem__(0, "b")),
    "an object": ("settings", set_attribute("settings", Settings())),
    "a parameter of the same value": ("weight", set_attribute("weight", nn.Parameter(torch.ones(1)))),
    "no parameter": ("weight", set_attribute("weight", None)),
    "a buffer": ("table", lambda odd: odd.register_buffer("table", torch.zeros(2, 3))),
    "a shape": ("table", lambda odd: setattr(odd.table, "data", torch.zeros(3, 2))),
    "strides": ("table", lambda odd: setattr(odd.table, "data", torch.zeros(3, 2).T)),
    "a dtype": ("table", lambda odd: setattr(odd.table, "data", torch.zeros(2, 3, dtype=torch.half))),
    "a tensor that is no buffer": ("plain", set_attribute("plain", torch.zeros(2))),
    "a module": ("inner.one", lambda odd: odd.inner.update({"one": nn.Linear(2, 2)})),
    "the order of modules": ("inner._modules", lambda odd: odd.inner.update({"one": odd.inner.pop("one")})),
    "a module in a list": ("listed[0].weight", lambda odd: setattr(odd.listed[0], "weight", nn.Parameter(torch.ones(2, 2)))),
    "a hook": ("inner.one._forward_hooks", lambda odd: odd.inner["one"].register_forward_hook(print)),
    "a pre-hook": ("_forward_pre_hooks", lambda odd: odd.register_forward_pre_hook(print)),
    "a forward": ("forward", set_attribute("forward", print)),
    "a class": ("inner.one", lambda odd: setattr(odd.inner["one"], "__class__", type("Other", (nn.Linear,), {}))),
    "an attribute more": ("more", set_attribute("more", 1)),
    "an attribute less": ("active", lambda odd: delattr(odd, "active")),
    "compiled": ("inner.one._compiled_call_impl", lambda odd: odd.inner["one"].compile()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_named(name):
    """Would catch: a change that the glance misses, or that is found without a name a user could go to."""
    odd = Odd()
    fingerprint = Fingerprint(odd)
    assert fingerprint.changes() == []
    path, change = CHANGES[name]
    change(odd)
    for _ in range(2):  # what was found once is no less a change the second time
        changes = fingerprint.changes()
        assert path in changes and all(one.startswith(path) or name in ("a key", "an object") for one in changes)


SAME = {
    "training": lambda odd: odd.train(not odd.training),
    "checkpointing": lambda odd: (setattr(odd, "gradient_checkpointing", True),
                                  setattr(odd, "_gradient_checkpointing_func", print)),
    "gradients": lambda odd: (odd.requires_grad_(False), setattr(odd.inner["one"].weight, "grad", torch.ones(2, 2))),
    "numbers in place": lambda odd: odd.inner["one"].weight.data.mul_(2),
    "data moved": lambda odd: setattr(odd.inner["one"].weight, "data", torch.ones(2, 2)),
    "equal values": lambda odd: (setattr(odd, "scaling", {"one": float("2")}), setattr(odd, "kinds", set("a"))),
    "hooks on gradients": lambda odd: odd.register_full_backward_hook(print),
    "a hook that comes and goes": lambda odd: odd.register_forward_hook(print).remove(),
}


@pytest.mark.parametrize("name", SAME)
def test_what_makes_no_difference_is_no_change(name):
    """Would catch: layers compiled anew for a trainer's business; a glance that goes on looking at what was replaced."""
    odd = Odd()
    fingerprint = Fingerprint(odd)
    SAME[name](odd)
    assert fingerprint.changes() == []
    assert fingerprint._unmoved(), "each glance would walk over the model"
    odd.scaling["one"] = 5.0
    assert fingerprint.changes() == ["scaling['one']"]


def test_addresses_count_where_they_are_asked_for():
    """Would catch: a captured graph that reads weights where they lay."""
    odd = Odd()
    fingerprint, there = Fingerprint(odd), Fingerprint(odd, addresses=True)
    odd.inner["two"].bias.data = torch.ones(2)
    assert fingerprint.changes() == [] and there.changes() == ["inner.two.bias"]


def test_configs_count_but_for_what_a_step_sets_itself():
    """Would catch: a setting changed in a config; the switch of attention taken for a change."""
    model = tiny.build("llama")
    fingerprint = Fingerprint(model)
    model.config._attn_implementation = "eager"
    model.config.use_cache = False
    assert fingerprint.changes() == []
    model.config.rope_parameters["rope_theta"] = 5.0
    assert len(fingerprint.changes()) == 1 and fingerprint.changes()[0].endswith("config.rope_parameters['rope_theta']")
    model.config = copy.deepcopy(model.config)
    assert "config" in fingerprint.changes()


def test_hooks_on_all_modules_count():
    """Would catch: a hook that compiled layers skip."""
    fingerprint = Fingerprint(Odd())
    hook = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert fingerprint.changes()
    finally:
        hook.remove()
    assert fingerprint.changes() == []


def test_what_settles_is_no_change_and_its_neighbours_are():
    """Would catch: a counter that a forward pass moves, seen as a change; or all that begins with its name let through."""
    odd = Odd()
    odd.count, odd.count_more, odd.cache = 0, 0, OrderedDict()
    fingerprint = Fingerprint(odd)
    odd.count += 1
    odd.cache["a"] = torch.ones(2)
    fingerprint.settle()
    odd.count += 1
    odd.cache["b"] = torch.ones(2)
    assert fingerprint.changes() == []
    odd.count_more += 1
    assert fingerprint.changes() == ["count_more"]


def test_odd_tensors_have_a_fingerprint():
    """Would catch: a crash on tensors without strides or shape."""
    model = nn.Module()
    model.sparse, model.lazy = torch.eye(3).to_sparse(), nn.LazyLinear(3)
    fingerprint = Fingerprint(model, addresses=True)
    assert fingerprint.changes() == []
    model.sparse = torch.eye(3).to_sparse()
    assert fingerprint.changes() == ["sparse"]


@pytest.mark.parametrize("addresses", [False, True])
def test_a_look_at_a_model_of_thirty_layers_takes_less_than_a_millisecond(addresses):
    """Would catch: a check that is felt at every question. SmolLM2-135M's shape: 397 modules, 273 parameters."""
    model = tiny.build("llama", torch.float32, num_hidden_layers=30)
    fingerprint = Fingerprint(model, addresses)

    def seconds() -> float:
        began = time.perf_counter()
        assert fingerprint.changes() == []
        return time.perf_counter() - began

    for _ in range(10):  # where other work takes half of the core, a moment without it is waited for
        if min(seconds() for _ in range(100)) < 1e-3:
            return
        time.sleep(1)
    pytest.fail("it takes a millisecond and more")


# -- locks ------------------------------------------------------------------------------------------------------------


def test_locks_are_taken_in_one_order():
    """Would catch: two threads that wait for each other."""
    objects = [Odd() for _ in range(6)]
    pairs = [Locks(objects[:4]), Locks(objects[::-1]), Locks(objects[2:])]
    inside, barrier = [], threading.Barrier(len(pairs))

    def work(locks):
        barrier.wait()
        for _ in range(200):
            with locks, locks:  # what is held may be held again
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work, args=(locks,), daemon=True) for locks in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads) and not inside


def test_locks_keep_nothing_alive():
    """Would catch: every model that was ever served, kept for good."""
    odd = Odd()
    locks, gone = Locks([odd]), weakref.ref(odd)
    del odd
    gc.collect()
    assert gone() is not None
    del locks
    gc.collect()
    assert gone() is None
