"""``torch.export``: exporting before recording, and saved programs."""

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import perfmodel as pm  # noqa: E402
from perfmodel.errors import WorkloadError  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 8)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x):
        x = x + torch.arange(x.shape[-1], device=x.device)
        x = F.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        q = self.fc(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q).mean((1, 2)) * self.scale[:4]


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


def kernels(program):
    """Targets that are no views: exporting may spell those in another way."""
    views = {"view", "transpose", "t", "permute", "unsqueeze", "flatten", "expand", "detach"}
    names = [node.target.removeprefix("aten.") for node in program.nodes]
    return [name for name in names if name not in views]


@pytest.fixture
def image():
    return torch.randn(2, 3, 8, 8)


def test_exporting_first_records_the_same_kernels(image):
    direct = pm.trace(Net(), image)
    exported = pm.trace(Net(), image, via="export")
    assert kernels(exported) == kernels(direct)
    assert exported.origin.startswith("torch.export")
    assert exported.parameters == direct.parameters
    assert exported.name == "Net"


def test_an_exported_graph_remembers_modules_and_lines(image, tmp_path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (image,)), path)
    direct = pm.trace(Net(), image)
    for program in (pm.trace(Net(), image, via="export"), pm.load_graph(path)):
        for target in ("aten.convolution", "aten.cudnn_batch_norm", "aten.mm", "aten.mean"):
            here, there = (
                next(n for n in p.nodes if n.target == target) for p in (program, direct)
            )
            assert (here.module, here.source) == (there.module, there.source)


def test_an_export_failure_gives_the_line_and_the_way_round():
    with pytest.raises(WorkloadError) as caught:
        pm.trace(Branch(), torch.ones(4), via="export")
    assert "test_export.py" in caught.value.where
    assert 'via="record"' in caught.value.repair
    assert "torch.where" in caught.value.repair
    assert len(caught.value.got) > 20


def test_a_saved_program(tmp_path, image):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (image,)), path)
    program = pm.load_graph(path)
    assert kernels(program) == kernels(pm.trace(Net(), image))
    assert program.name == "net"
    assert program.tensor(program.inputs[0]).shape == (2, 3, 8, 8)
    assert kernels(pm.load_graph(path, batch_size=2)) == kernels(program)
    with pytest.raises(WorkloadError, match="dynamic_shapes"):
        pm.load_graph(path, batch_size=4)


def test_a_saved_program_with_a_dynamic_batch(tmp_path, image):
    path = tmp_path / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Net().eval(), (image,), dynamic_shapes={"x": {0: batch}})
    torch.export.save(exported, path)
    program = pm.load_graph(path, batch_size=16)
    assert program.tensor(program.outputs[0]).shape[0] == 16
    assert kernels(program) == kernels(pm.trace(Net(), torch.ones(16, 3, 8, 8)))


def test_what_is_no_saved_program(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"nothing")
    with pytest.raises(WorkloadError, match=r"torch\.export\.save"):
        pm.load_graph(path)


def test_a_fault_of_a_saved_program_is_told_once(tmp_path, image, caplog):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (image,)), path)
    path.write_bytes(path.read_bytes()[:2000])
    caplog.clear()
    with pytest.raises(WorkloadError, match=r"torch\.export\.save"):
        pm.load_graph(path)
    assert caplog.records == []
