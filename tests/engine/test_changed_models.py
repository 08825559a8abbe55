"""The model as it is now: whatever is changed in it after an engine was made, the next run is of what it has become."""

import copy
import gc
import logging
import threading
import weakref
from contextlib import ExitStack

import pytest
import tiny
import torch
from torch import nn
from torch._dynamo.utils import counters

from leapgen import EngineConfig, ModelChangedError, PoolTooSmallError, SamplingConfig, UnsupportedModelError
from leapgen.engine import Engine, Stream
from leapgen.engine.backends.cpu.compiler import layers
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.model.support import eval_mode

PROMPT = [(3 + 7 * i) % 150 for i in range(21)]
STEPS = 6


def small(name="llama", dtype=torch.float32, **changes):
    return tiny.build(name, dtype, **changes)


def another():
    """Another model of the same shape."""
    model = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2)))
    return model


def engine_of(model, compile=True, **changes):
    return Engine(model, EngineConfig(**{"page_size": 4, "kv_cache_bytes": 1 << 20, "compile": compile, **changes}))


def run(engine, n=2, steps=STEPS):
    """Tokens and log-probabilities of n paths."""
    first = engine.add(PROMPT, SamplingConfig(), stream=Stream(5, 0), limit=len(PROMPT) + steps)
    family = [first, *(engine.fork(first, stream=Stream(5, i)) for i in range(1, n))]
    logprobs = {one: [] for one in family}
    while engine.has_work:
        for event in engine.step():
            logprobs[event.sequence].append(event.logprob)
    for one in family:
        engine.release(one)
    engine.check_integrity()
    return [(one.tokens, logprobs[one]) for one in family]


@torch.no_grad()
def own_logprobs(model, tokens):
    """What the model's own forward says of each token after the prompt."""
    with eval_mode(model):
        rows = model(torch.tensor([tokens]), use_cache=False).logits[0].float().log_softmax(dim=-1)
    return [float(rows[i - 1, tokens[i]]) for i in range(len(PROMPT), len(tokens))]


def difference(one, other):
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def worst_error(engine, model):
    return max(difference(logprobs, own_logprobs(model, tokens)) for tokens, logprobs in run(engine))


# -- ways of changing a model -----------------------------------------------------------------------------------------


def lora():
    peft = pytest.importorskip("peft")
    return peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)


def with_adapters():
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    model = peft.get_peft_model(small(), lora())
    model.add_adapter("other", lora())
    return model.eval()


def quantised(how, model):
    if how == "quanto":
        quanto = pytest.importorskip("optimum.quanto")
        quanto.quantize(model, weights=quanto.qint8)
        quanto.freeze(model)
    else:
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(model, getattr(quantization, how)())


def add_adapter(model, stack):
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    peft.get_peft_model(model, lora()).eval()


def disable_and_enable(model, stack):
    with model.disable_adapter():
        pass


def merge_and_unmerge(model, stack):
    model.merge_adapter()
    model.unmerge_adapter()


def replace_parameter(model, stack):
    layer = model.model.layers[1].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach() * -0.5)


def replace_data(model, stack):
    weight = model.model.layers[1].mlp.up_proj.weight
    weight.data = weight.data * -0.5


def in_place(model, stack):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(-0.5)


def replace_module(model, stack):
    model.model.layers[0].mlp = another().model.layers[0].mlp


def replace_head(model, stack):
    model.lm_head = another().lm_head


def load_assigned(model, stack):
    model.load_state_dict(another().state_dict(), assign=True)


def take_layers(model, stack):
    model.model.layers[1] = another().model.layers[1]


def hook(path):
    def change(model, stack):
        model.get_submodule(path).register_forward_hook(lambda module, args, output: output * 0.5)
    return change


def pre_hook(model, stack):
    model.model.layers[0].register_forward_pre_hook(lambda module, args: (args[0] * 0.5, *args[1:]))


def global_hook(model, stack):
    halve = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output * 0.5 if type(module).__name__ == "LlamaMLP" else None)
    stack.callback(halve.remove)


def patch_forward(path):
    def change(model, stack):
        module = model.get_submodule(path)
        forward = module.forward
        module.forward = lambda *args, **kwargs: forward(*args, **kwargs) * 0.5
    return change


def patch_class(model, stack):
    kind = type(model.model.layers[0].mlp)
    forward = kind.forward
    stack.callback(setattr, kind, "forward", forward)
    kind.forward = lambda self, x: forward(self, x) * 0.5


def change_class(model, stack):
    class Halving(type(model.model.layers[0].mlp)):
        def forward(self, x):
            return super().forward(x) * 0.5

    model.model.layers[0].mlp.__class__ = Halving


def compile_layer(model, stack):
    stack.enter_context(torch._dynamo.config.patch(recompile_limit=1))
    layer = model.model.layers[0]
    layer.compile(backend="eager")
    layer.mlp.act_fn = nn.GELU()


def set_number(model, stack):
    for layer in model.model.layers:
        layer.self_attn.scaling *= 2


def set_config(model, stack):
    model.model.layers[0].self_attn.config = copy.copy(model.config)
    model.model.layers[0].self_attn.scaling *= 2


def replace_buffer(model, stack):
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq * 2


def empty(path):
    def change(model, stack):
        model.get_parameter(path).data = torch.empty(0)
    return change


def call(name, *args):
    return lambda model, stack: getattr(model, name)(*args)


def enter(name):
    return lambda model, stack: stack.enter_context(getattr(model, name)())


CHANGES = {
    "adapter added": add_adapter,
    "parameter replaced": replace_parameter,
    "data replaced": replace_data,
    "in place": in_place,
    "module replaced": replace_module,
    "head replaced": replace_head,
    "state assigned": load_assigned,
    "layer of another model": take_layers,
    "hook": hook("model.layers.1.mlp"),
    "hook on the head": hook("lm_head"),
    "hook on the model": hook("model.embed_tokens"),
    "pre-hook": pre_hook,
    "hook on all modules": global_hook,
    "forward patched": patch_forward("model.layers.0.mlp"),
    "forward of the head patched": patch_forward("lm_head"),
    "forward of a class patched": patch_class,
    "class changed": change_class,
    "layer compiled by the user": compile_layer,
    "number set": set_number,
    "config replaced": set_config,
    "buffer replaced": replace_buffer,
    "int8 weights by torchao": lambda model, stack: quantised("Int8WeightOnlyConfig", model),
    "int8 by torchao": lambda model, stack: quantised("Int8DynamicActivationInt8WeightConfig", model),
    "int8 by quanto": lambda model, stack: quantised("quanto", model),
    "float64": call("double"),
    "bfloat16": call("bfloat16"),
    "float16": call("half"),
    "embedding resized": call("resize_token_embeddings", 170),
}
ADAPTER_CHANGES = {
    "switched": call("set_adapter", "other"),
    "disabled": enter("disable_adapter"),
    "merged": call("merge_adapter"),
}
BACK_AGAIN = {"disabled and enabled": disable_and_enable, "merged and unmerged": merge_and_unmerge}
# Logits here are up to 8, so that half a unit in the last place is 2**-6 in bfloat16, 2**-9 in float16. An activation
# rounded to the next of 255 levels moves a logit by some hundredths: by 0.06 in the model's own decoding with a cache.
TOLERANCE = {"bfloat16": 2**-4, "float16": 2**-7, "int8 by torchao": 0.1}


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", CHANGES)
def test_the_next_run_is_of_the_model_as_it_is_now(name, compile):
    """Would catch: a change that compiled layers, kernels or the switch of attention do not see, and a crash of one that
    they cannot serve."""
    model = small()
    engine = engine_of(model, compile)
    assert isinstance(engine.runner.backend, ReferenceBackend) or engine.runner.backend.compiled == compile
    tokens = run(engine)[0][0]
    before = own_logprobs(model, tokens)
    with ExitStack() as stack:
        CHANGES[name](model, stack)
        if name != "float64":
            assert difference(before, own_logprobs(model, tokens)) > 1e-3, "nothing changed"
        assert worst_error(engine, model) < TOLERANCE.get(name, 1e-4)


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", [*ADAPTER_CHANGES, *BACK_AGAIN])
def test_adapters_are_those_of_now(name, compile):
    """Would catch: RL's reference policy computed with the adapter, or a policy without it."""
    model = with_adapters()
    engine = engine_of(model, compile)
    tokens = run(engine)[0][0]
    before = own_logprobs(model, tokens)
    with ExitStack() as stack:
        (ADAPTER_CHANGES | BACK_AGAIN)[name](model, stack)
        same = name in BACK_AGAIN or name == "merged"
        assert (difference(before, own_logprobs(model, tokens)) < 1e-4) == same
        assert worst_error(engine, model) < 1e-4
    assert worst_error(engine, model) < 1e-4


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("how", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "quanto"])
def test_quantised_models_are_served_by_what_quantised_them(how, compile):
    """Would catch: a kernel that reads a tensor's subclass as numbers that lie in a row, which is a crash."""
    model = small()
    quantised(how, model)
    engine = engine_of(model, compile)
    assert worst_error(engine, model) < (0.1 if "Dynamic" in how else 1e-4)


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize(("start", "end"), [("float64", "float32"), ("bfloat16", "float32"), ("bfloat16", "float64")])
def test_a_pool_is_made_anew_for_another_dtype(start, end, compile):
    """Would catch: keys written into a pool of another dtype, past its end where it is full."""
    model = small(dtype=getattr(torch, start))
    engine = engine_of(model, compile)
    run(engine)
    model.to(getattr(torch, end))
    assert worst_error(engine, model) < 1e-4
    assert {spec.dtype for spec in engine.runner.cache.specs.values()} == {getattr(torch, end)}


def test_a_pool_that_does_not_fit_is_refused_and_the_old_one_comes_back():
    """Would catch: an engine that is left without a pool, or with pages of one it no longer has."""
    model = small()
    page = 16 * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, KV heads, width, float32
    engine = engine_of(model, compile=False, page_size=16, kv_cache_bytes=3 * page)
    expected = run(engine)
    model.double()
    for _ in range(2):
        with pytest.raises(PoolTooSmallError):
            engine.add(PROMPT)
    model.float()
    assert run(engine) == expected


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("path", ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight",
                                  "model.layers.1.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight",
                                  "lm_head.weight"])
def test_a_model_that_cannot_run_is_refused_until_it_can(path, compile):
    """Would catch: a kernel that reads weights a trainer has taken away, which is a crash."""
    model = small()
    engine = engine_of(model, compile)
    expected, weight = run(engine), model.get_parameter(path)
    kept, weight.data = weight.data, torch.empty(0)
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM cannot be served: its "):
            engine.add(PROMPT)
    with pytest.raises(UnsupportedModelError, match="LlamaForCausalLM cannot be served: its "):
        engine_of(model, compile)
    weight.data = kept
    assert run(engine) == expected


# -- what costs nothing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toggle", ["train", "activation_checkpointing_enable", "enable_input_require_grads"])
def test_what_trainers_toggle_around_a_run_is_no_change(toggle):
    """Would catch: layers compiled anew at every step of a trainer."""
    model = small()
    engine = engine_of(model)
    runner = engine.runner
    expected = run(engine)
    getattr(model, toggle)()
    with eval_mode(model):
        assert run(engine) == expected
    assert engine.runner is runner


def test_adapters_that_take_turns_are_compiled_once():
    """Would catch: seconds of compiling at every turn of policy and reference policy."""
    model = with_adapters()
    engine = engine_of(model)
    runners, graphs = [], []
    for _ in range(3):
        with model.disable_adapter():
            reference = run(engine)
        runners.append(engine.runner)
        policy = run(engine)
        runners.append(engine.runner)
        graphs.append(counters["stats"]["unique_graphs"])
        assert policy != reference
    assert runners[:2] == runners[2:4] == runners[4:] and runners[0] is not runners[1]
    assert graphs[0] == graphs[2]


def test_weights_that_were_replaced_are_let_go():
    """Would catch: a copy of the weights for each state that is remembered."""
    model = small()
    engine = engine_of(model)
    old = weakref.ref(model.model.layers[1].mlp.up_proj.weight)
    replace_parameter(model, None)
    run(engine)
    gc.collect()
    assert old() is None


def test_few_states_are_kept():
    """Would catch: an engine that grows with every change."""
    model = small()
    engine = engine_of(model, compile=False)
    for scale in range(1, 7):
        model.model.layers[0].self_attn.scaling = scale / 10
        assert worst_error(engine, model) < 1e-4
    assert len(engine._states._runners) == 3


def test_what_a_forward_pass_changes_itself_is_no_change():
    """Would catch: a model that counts its calls, or fetches its weights, checked and compiled at every question."""
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            self.newest = [x.shape]
            return super().forward(x)

    model = small()
    model.lm_head.__class__ = Counting
    engine = engine_of(model)
    runner = engine.runner
    run(engine)
    run(engine)
    assert engine.runner is runner and engine.runner.backend.compiled


def test_weights_that_a_forward_pass_fetches_are_no_change(tmp_path):
    """Would catch: an offloaded model, whose parameters are others at every pass, checked anew at every question."""
    accelerate = pytest.importorskip("accelerate")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
              "model.rotary_emb": "cpu", "lm_head": "disk"}
    model = accelerate.dispatch_model(small(), places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    engine = engine_of(model)
    runner = engine.runner
    assert worst_error(engine, model) < 1e-4 and worst_error(engine, model) < 1e-4
    assert engine.runner is runner


# -- live sequences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
def test_a_change_under_live_sequences_is_named_and_does_them_no_harm(compile):
    """Would catch: a sequence that goes on with keys of another model, or one that is lost with the refusal."""
    results = []
    for disturb in (False, True):
        model = with_adapters()
        engine = engine_of(model, compile)
        sequence = engine.add(PROMPT, SamplingConfig(), stream=Stream(1), limit=len(PROMPT) + 8)
        engine.step()
        if disturb:
            model.set_adapter("other")
            with pytest.raises(ModelChangedError, match=r"active_adapter.* and 6 more.*live sequences \(1\).*Release"):
                engine.add([1, 2, 3])
            engine.check_integrity()
            model.set_adapter("default")
        while engine.has_work:
            engine.step()
        results.append(sequence.tokens)
    assert results[0] == results[1]


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])  # by program and by inductor
@pytest.mark.parametrize("change", [
    lambda model: model.half(), lambda model: model.bfloat16(), lambda model: model.double(),
    lambda model: [setattr(p, "data", torch.empty(0)) for name, p in model.named_parameters() if ".1.mlp." in name],
], ids=["half", "bfloat16", "double", "emptied"])
def test_a_step_that_a_changed_model_cannot_take_says_so(change, name, compile):
    """Would catch: kernels that read and write memory of another dtype than they take it for, or none at all."""
    model = small(name)
    engine = engine_of(model, compile)
    sequence = engine.add(PROMPT, limit=60)
    engine.step()
    before = list(sequence.tokens)
    change(model)
    with pytest.raises(ModelChangedError, match="weight"):
        engine.step()
    assert sequence.tokens == before
    engine.check_integrity()


def test_compiled_layers_are_not_handed_another_dtype():
    """Would catch: half-precision numbers read as twice as many bytes."""
    model = small()
    engine = engine_of(model)
    engine.add(PROMPT)
    engine.step()
    model.model.embed_tokens.weight = nn.Parameter(model.model.embed_tokens.weight.detach().half())
    with pytest.raises(ModelChangedError, match=r"embed_tokens\.weight"):
        engine.step()


# -- the model is left as it was --------------------------------------------------------------------------------------


def test_the_users_own_compiling_stays():
    """Would catch: a layer's compile() undone by the first step, or an attribute left behind."""
    model = small()
    own = model.model.layers[0].mlp.gate_proj._compiled_call_impl = model.model.layers[0].mlp.gate_proj._call_impl
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    run(engine_of(model))
    run(engine_of(model, compile=False))
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert model.model.layers[0].mlp.gate_proj._compiled_call_impl is own


def test_layers_are_compiled_for_a_model_in_training_mode():
    """Would catch: a generator made in a trainer that is slow for good."""
    model = small().train()
    engine = engine_of(model)
    assert engine.runner.backend.compiled and all(module.training for module in model.modules())
    with eval_mode(model):
        assert worst_error(engine, model) < 1e-4


def test_eval_mode_lasts_until_the_last_one_leaves():
    """Would catch: a run that finds its model in training mode because another one of it has ended."""
    model = small().train()
    one, other = eval_mode(model), eval_mode(model.model)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not any(module.training for module in model.model.modules()) and model.training
    other.__exit__(None, None, None)
    assert all(module.training for module in model.modules())


def test_compiled_layers_that_say_something_else_are_not_used(monkeypatch, caplog):
    """Would catch: what dynamo does not see of a layer, a wrong program, or one of other layers, taken on trust."""
    compile = layers.compile_graph

    def wrong(graph, inputs):
        made = compile(graph, inputs)
        right = made._program
        made._run, made._program = lambda *tensors: (right(*tensors) * 1.1,), None
        return made

    monkeypatch.setattr(layers, "compile_graph", wrong)
    model = small()
    with caplog.at_level(logging.WARNING):
        engine = engine_of(model)
    assert not engine.runner.backend.compiled and "other results than the model's own" in caplog.text
    assert worst_error(engine, model) < 1e-4


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
@pytest.mark.parametrize("inside", ["made", "run", "model"])
def test_inference_mode_is_the_callers_affair(inside, compile):
    """Would catch: a pool that can only be written in the mode it was made in."""
    def within(part, call):
        with torch.inference_mode(inside == part or (part == "made" and inside == "model")):
            return call()

    model = within("model", small)
    engine = within("made", lambda: engine_of(model, compile))
    assert engine.runner.backend.compiled == compile
    expected = run(engine_of(small(), compile))
    assert within("run", lambda: run(engine)) == run(engine) == expected
    within("run", lambda: set_number(model, None))
    assert within("run", lambda: worst_error(engine, model)) < 1e-4
    assert worst_error(engine, model) < 1e-4


# -- threads ----------------------------------------------------------------------------------------------------------


def in_threads(*calls):
    """Runs calls at the same time; their results, or the first error."""
    barrier, results, errors = threading.Barrier(len(calls)), [None] * len(calls), []

    def work(i):
        try:
            barrier.wait()
            results[i] = calls[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
def test_engines_of_one_model_in_several_threads(compile):
    """Would catch: attention or a layer's call switched back by one engine while another's step needs it, or for good."""
    model = small()
    before = model.config._attn_implementation
    engines = [engine_of(model, compile), engine_of(model, compile), engine_of(model, False)]
    expected = [run(engine, n=3, steps=12) for engine in engines]
    for _ in range(8):
        assert in_threads(*(lambda engine=engine: run(engine, n=3, steps=12) for engine in engines)) == expected
    assert model.config._attn_implementation == before
    assert all("_compiled_call_impl" not in vars(module) for module in model.modules())


@pytest.mark.parametrize("compile", [True, False], ids=["compiled", "plain"])
def test_engines_are_made_and_follow_changes_beside_each_other(compile):
    """Would catch: a check or a compilation that sees another engine's step for the user's change."""
    model = small()
    engine = engine_of(model, compile)
    runner, expected = engine.runner, run(engine, steps=12)
    for _ in range(4):
        made, *_ = in_threads(lambda: engine_of(model, compile), *[lambda: run(engine, steps=12)] * 1)
        assert run(made, steps=12) == expected == run(engine, steps=12)
        assert engine.runner is runner and made.runner.backend.compiled == compile


def test_engines_of_models_that_share_their_head():
    """Would catch: a lock for each model, where two have a module in common."""
    models = [small(), another()]
    models[1].lm_head = models[0].lm_head
    engines = [engine_of(model, False) for model in models]
    expected = [run(engine, steps=12) for engine in engines]
    for _ in range(8):
        assert in_threads(*(lambda engine=engine: run(engine, steps=12) for engine in engines)) == expected
    assert "_compiled_call_impl" not in vars(models[0].lm_head)
