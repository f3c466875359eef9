"""Software stacks as data."""

import pytest

from perfmodel.errors import WorkloadError
from perfmodel.workload.transformer import bundled_stacks, load_precision, load_stack


@pytest.mark.parametrize("name", bundled_stacks())
def test_bundled_stacks_state_their_source(name):
    stack = load_stack(name)
    assert stack.name == name
    assert len(stack.source) > 20
    # a replayed graph has no host launches, anything else has
    assert (stack.host_launch == 0) == stack.graph


def test_bytes_a_parameter():
    # bf16 weight, fp32 gradient, fp32 master and two moments
    assert load_stack("megatron").state_bytes == 18
    # fp16 gradients: the 16 bytes of Rajbhandari et al., ZeRO (arXiv 1910.02054), section 3.1
    assert load_stack("megatron-2022").state_bytes == 16
    # fp32 weights are their own master copy
    assert load_stack("maxtext-jax").state_bytes == 16


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("host_launch = 5", "description"),
        ('description = "d"\nsource = "s"\nhost_launch = "5 GB"', "host_launch"),
        ('description = "d"\nsource = "s"\nhost_launch = -1', "host_launch"),
        ('description = "d"\nsource = "s"\nhost_launch = 0\nfused_nrm = true', "fused_nrm"),
        ('description = "d"\nsource = "s"\nhost_launch = 0\nattention = "flsh"', "attention"),
        ('description = "d"\nsource = "s"\nhost_launch = 0\nweight_dtype = "bf17"', "bf16"),
        ('description = "d"\ndescription = "e"', "TOML"),
    ],
)
def test_bad_stack_files_are_refused(tmp_path, text, word):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(Exception, match=word) as caught:
        load_stack(path)
    assert type(caught.value).__module__ == "perfmodel.errors"


def test_own_stack_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('description = "d"\nsource = "measured"\nhost_launch = "7 us"\n')
    assert load_stack(path).host_launch == pytest.approx(7e-6)


def test_misspelt_names():
    with pytest.raises(WorkloadError) as caught:
        load_stack("megatrn")
    assert caught.value.nearest == "megatron"
    with pytest.raises(WorkloadError) as caught:
        load_precision("bf61")
    assert caught.value.nearest == "bf16"
