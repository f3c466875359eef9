"""What cannot be recorded is refused with the reason, the user's line and a way round."""

import inspect
import sys

import pytest

import perfmodel as pm
from perfmodel.errors import WorkloadError

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


class Item(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Nonzero(nn.Module):
    def forward(self, x):
        return x[x > 0]


class Tolist(nn.Module):
    def forward(self, x):
        return sum(x.tolist())


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() + 1)


class Unique(nn.Module):
    def forward(self, x):
        return torch.unique(x)


class Shapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 3)

    def forward(self, x):
        return self.fc(x)


class Devices(nn.Module):
    def forward(self, x):
        return x + torch.ones(4)


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError


class Experts(nn.Module):
    """A mixture of experts that asks which tokens go where."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 2)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        choice = self.router(x).argmax(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = torch.where(choice == number)[0]
            out[rows] = expert(x[rows])
        return out


DATA = {
    Item: "_local_scalar_dense",
    Branch: "_local_scalar_dense",
    Nonzero: "aten.index",
    Tolist: "look at the data",
    Numpy: "data",
    Unique: "unique",
    Experts: "nonzero",
}


def refused(module, inputs, **more):
    with pytest.raises(WorkloadError) as caught:
        pm.trace(module, inputs, **more)
    parts = caught.value.to_dict()
    assert all(parts[key] for key in ("where", "got", "accepted", "repair"))
    return caught.value


@pytest.mark.parametrize("kind", DATA, ids=lambda kind: kind.__name__)
def test_data_dependence(kind):
    error = refused(kind(), torch.ones(4, 4) if kind is Experts else torch.ones(4))
    assert DATA[kind] in error.got
    source, first = inspect.getsourcelines(kind)
    file, _, line = error.where.split(" in ")[0].removeprefix("trace ").rpartition(":")
    assert file.endswith("test_errors.py")
    assert first <= int(line) < first + len(source)
    assert len(error.repair) > 20


def test_the_failing_module_is_named():
    error = refused(nn.Sequential(nn.Linear(4, 4), Item()), torch.ones(4, 4))
    assert error.where.endswith("in 1")


def test_known_values_are_the_way_round_that_the_error_names():
    ids = torch.tensor([1, 2, 2])
    program = pm.trace(Unique(), ids)
    assert program.tensor(program.outputs[0]).shape == (2,)
    assert "aten.index" in refused(Nonzero(), torch.ones(4)).got


def test_shape_mismatch_names_the_line_and_the_module():
    error = refused(Shapes(), torch.ones(2, 4))
    assert "in fc" in error.where
    assert "[2, 4]" in error.got
    assert "example inputs" in error.repair


@torch.library.custom_op("perfmodel_tests::shapeless", mutates_args=())
def shapeless(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@torch.library.custom_op("perfmodel_tests::underived", mutates_args=())
def underived(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


underived.register_fake(torch.empty_like)


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x)).sum()


@pytest.mark.parametrize(
    ("model", "more", "way"),
    [
        (Numpy(), {}, "function of torch"),
        (Tolist(), {}, "argument of the module"),
        (Calls(shapeless), {}, "register_fake"),
        (Calls(underived), {"training": pm.Training()}, "register_autograd"),
        (Calls(lambda x: x.cuda()), {}, "x.device"),
        (nn.LazyLinear(4), {}, "once on the CPU"),
    ],
)
def test_the_way_round_is_that_of_the_reason(model, more, way):
    if way == "x.device" and torch.cuda.is_available():
        pytest.skip("a device is there")
    assert way in refused(model, torch.ones(4, 4), **more).repair


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_traced_as_it_was_written():
    scripted = torch.jit.script(nn.Linear(4, 4))
    assert "that were scripted" in refused(Calls(scripted), torch.ones(4, 4)).repair


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Linear(4, 4).half(), torch.ones(2, 4)),
        (nn.Linear(4, 4), torch.ones(2, 4, dtype=torch.long)),
        (nn.Conv2d(3, 4, 3).bfloat16(), torch.ones(2, 3, 8, 8)),
    ],
)
def test_formats_that_cuda_refuses_to_mix_are_refused(model, x):
    assert "formats of the example inputs" in refused(model, x).repair
    half = model.float() if x.dtype == torch.float32 else nn.Identity()
    assert pm.trace(half, x, autocast="bf16").nodes is not None


def test_tensor_on_the_wrong_device():
    assert "device" in refused(Devices(), torch.ones(4)).repair


def test_an_exception_without_words():
    assert "RuntimeError" in refused(Raises(), torch.ones(4)).got


def test_wrong_number_of_arguments():
    assert "forward()" in refused(Item(), (torch.ones(4), torch.ones(4))).got


def test_not_a_module():
    assert "torch.nn.Module" in refused(lambda x: x, torch.ones(4)).accepted
    scripted = torch.jit.script(nn.ReLU())
    assert "scripted" in refused(scripted, torch.ones(4)).repair


def test_a_module_that_cannot_be_copied():
    model = nn.Linear(4, 4)
    model.lock = sys.modules[__name__].__loader__, (value for value in ())
    assert "copy" in refused(model, torch.ones(4)).accepted


def test_an_input_that_cannot_be_copied():
    class Handle:
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    error = refused(Item(), (torch.ones(4), Handle()))
    assert "no copies" in error.got


@pytest.mark.parametrize(
    ("more", "nearest"),
    [
        ({"via": "recrod"}, "record"),
        ({"autocast": "bf61"}, "bf16"),
        ({"attention": ("flsh",)}, "flash"),
        ({"training": True}, None),
    ],
)
def test_misspelt_arguments(more, nearest):
    assert refused(nn.ReLU(), torch.ones(4), **more).nearest == nearest


@pytest.mark.parametrize(
    ("more", "nearest"),
    [
        ({"optimizer": "adamww"}, "adamw"),
        ({"implementation": "forech"}, "foreach"),
        ({"checkpoint": "layers.*"}, None),
        ({"loss": "mse"}, None),
        ({"targets": torch.ones(2, 4)}, None),
        ({"momentum": "x"}, None),
        ({"clip_norm": -1.0}, None),
    ],
)
def test_misspelt_training(more, nearest):
    with pytest.raises(WorkloadError) as caught:
        pm.Training(**more)
    assert caught.value.nearest == nearest


def test_training_without_loss_or_parameters():
    assert "loss" in refused(nn.Linear(4, 4), torch.ones(2, 4), training=pm.Training()).repair
    assert "parameter" in refused(nn.ReLU(), torch.ones(4), training=pm.Training()).got
    how = pm.Training(loss=torch.sum, checkpoint=("layer.*",))
    assert "pattern" in refused(nn.Linear(4, 4), torch.ones(2, 4), training=how).accepted


def test_decode_inputs_need_a_language_model():
    from perfmodel.workload.importers.decode import decode_inputs

    pytest.importorskip("transformers")
    with pytest.raises(WorkloadError, match="causal language model"):
        decode_inputs(nn.Linear(2, 2), batch_size=1, past_length=4)
    with pytest.raises(WorkloadError, match="positive"):
        decode_inputs(nn.Linear(2, 2), batch_size=0, past_length=4)


def test_what_a_tokenizer_returns_is_no_positional_argument():
    inputs = {"input": torch.randn(2, 7)}
    with pytest.raises(WorkloadError, match=r"(?s)example_inputs.*input.*trace\(module, \(\), inp"):
        pm.trace(nn.Linear(7, 3), inputs)
    assert pm.trace(nn.Linear(7, 3), (), inputs).nodes
