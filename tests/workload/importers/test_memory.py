"""Oracle: the memory of a recorded step equals what PyTorch allocates when it runs the step.

The other side is a real step on the CPU, its allocations counted by PyTorch's profiler. Models are
small and attention is spelt out, because the CPU has other fused kernels than CUDA.
"""

import gc

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

import perfmodel as pm  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
HOW = {"foreach": {"foreach": True}, "fused": {"fused": True}, "for-loop": {"foreach": False}}
SCALARS = 128  # bytes: the CPU counts step counters and wrapped numbers that live on the host


def allocated(step):
    """Largest sum of bytes allocated during a step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def real_training(model, call, training):
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": training.momentum} if training.optimizer == "sgd" else {}
    optimizer = kinds[training.optimizer](
        model.parameters(), lr=1e-3, **HOW[training.implementation], **more
    )
    loss_of = training.loss or (lambda output: output.loss)

    def step():
        loss = loss_of(call(model))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    gc.collect()
    return allocated(step)


def recorded(program):
    resident = sum(program.storages[number] for number in program.resident)
    return max(program.live_bytes()) - resident


def mlp():
    model = nn.Sequential(
        nn.Linear(256, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 512), nn.ReLU(),
        nn.Linear(512, 10),
    )  # fmt: skip
    return model, (torch.randn(64, 256),), {}


def gpt2():
    config = transformers.GPT2Config(
        n_layer=3, n_embd=128, n_head=4, vocab_size=1000, use_cache=False, attn_pdrop=0,
        resid_pdrop=0, embd_pdrop=0, bos_token_id=0, eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    ids = torch.randint(0, 1000, (4, 64))
    return transformers.GPT2LMHeadModel(config), (ids,), {"labels": ids}


def llama():
    config = transformers.LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, use_cache=False, attn_implementation="eager",
    )  # fmt: skip
    ids = torch.randint(0, 1000, (4, 64))
    return transformers.LlamaForCausalLM(config), (ids,), {"labels": ids}


def t5():
    config = transformers.T5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=500, dropout_rate=0.0,
        use_cache=False, decoder_start_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    ids = torch.randint(0, 500, (4, 32))
    return transformers.T5ForConditionalGeneration(config), (), {"input_ids": ids, "labels": ids}


MODELS = {"mlp": mlp, "gpt2": gpt2, "llama": llama, "t5": t5}
TRAINING = [
    ("adamw", "foreach"),
    ("adamw", "fused"),
    ("adam", "for-loop"),
    ("sgd", "foreach"),
]


@pytest.mark.parametrize(("optimizer", "implementation"), TRAINING)
@pytest.mark.parametrize("name", MODELS)
def test_training_peak(name, optimizer, implementation):
    model, args, kwargs = MODELS[name]()
    loss = (lambda output: output.square().mean()) if name == "mlp" else None
    training = pm.Training(optimizer=optimizer, implementation=implementation, loss=loss)
    program = pm.trace(model, args, kwargs, training=training)
    model.train()
    real = real_training(model, lambda m: m(*args, **kwargs), training)
    assert recorded(program) == pytest.approx(real, abs=SCALARS)


def test_checkpointed_peak():
    model, args, kwargs = llama()
    training = pm.Training(checkpoint=("model.layers.*",), implementation="fused")
    program = pm.trace(model, args, kwargs, training=training)
    model.train()
    # the state of the random generator lies in host memory, which the CPU cannot tell apart
    how = {"use_reentrant": False, "preserve_rng_state": False}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
    real = real_training(model, lambda m: m(*args, **kwargs), training)
    assert recorded(program) == pytest.approx(real, abs=SCALARS)
    plain = recorded(pm.trace(llama()[0], args, kwargs, training=pm.Training()))
    assert recorded(program) < plain


@pytest.mark.parametrize("name", MODELS)
def test_inference_peak(name):
    model, args, kwargs = MODELS[name]()
    program = pm.trace(model, args, kwargs)
    model.eval()
    kept = []

    def infer():
        with torch.no_grad():
            kept.append(model(*args, **kwargs))

    infer()
    kept.clear()
    gc.collect()
    assert recorded(program) == pytest.approx(allocated(infer), abs=SCALARS)


def test_a_growing_cache_lets_go_of_what_it_held():
    """Decoding with DynamicCache: the old keys and values of a layer die as the new are made."""
    from perfmodel.workload.importers.decode import decode_inputs

    model = llama()[0]
    args, kwargs = decode_inputs(model, batch_size=2, past_length=63)
    program = pm.trace(model, args, kwargs)
    past = [program.tensor(name).storage for name in program.inputs if "past" in name]
    freed = {number for node in program.nodes for number in node.frees}
    assert len(past) == 6
    assert set(past) <= freed
    static = pm.trace(model, *decode_inputs(model, batch_size=2, past_length=63, static=True))
    assert "aten.index_copy_" in {node.target for node in static.nodes}
    assert max(static.live_bytes()) < max(program.live_bytes()) * 1.02
