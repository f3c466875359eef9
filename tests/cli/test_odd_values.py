"""Any value of any option: an answer, or an error in five parts; never a traceback."""

import contextlib
import io
import json
import sys
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel import cli

VERBS = {
    "train": "train gpt2 --on dgx-h100 --nodes 1 --global-batch-size 8 --seq-len 128",
    "plan": "plan gpt2 --on dgx-h100 --nodes 1 --global-batch-size 8 --seq-len 128 --top 1",
    "infer": "infer gpt2 --on h100-sxm5-80gb --batch-size 1 --prompt-len 16 --output-len 4",
    "conv layer": "conv layer --on h100-sxm5-80gb",
    "conv net": "conv net resnet18 --on h100-sxm5-80gb --batch-size 1",
}
OPTIONS = {
    "train": "--on --nodes --gpus-per-node --global-batch-size --seq-len --tp --pp --dp --cp --ep "
    "--expert-tp --virtual-stages --micro-batch-size --zero --zero-group --recompute --precision "
    "--schedule --layers-per-stage --stack --tokens --price",
    "plan": "--on --nodes --global-batch-size --seq-len --objective --top --method --export "
    "--precision --stack --tokens --price",
    "infer": "--on --batch-size --prompt-len --output-len --tp --precision --stack",
    "conv layer": "--on --side --kernel --stride --padding --groups --batch-size --pass --dtype "
    "--layout --cache",
    "conv net": "--on --batch-size --image-size --dtype --layout --mode --optimizer --nodes",
}
ODD = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1.5", "nan", "inf", "1e3", "9" * 20, "9007199254740993", "7", "\u00e9",
         "nope", "bf16", "fp8", "h100-sxm5-80gb", "dgx-h100", "nvlink4", "mi250x", "/", ".."]
    ),
    st.text(max_size=8),
    st.integers(-(2**70), 2**70).map(str),
)  # fmt: skip
ASKED = st.sampled_from(sorted(VERBS)).flatmap(
    lambda verb: st.tuples(st.just(verb), st.sampled_from(OPTIONS[verb].split()), ODD)
)
PARTS = {"error", "where", "got", "accepted", "nearest", "repair"}


def _run(arguments):
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["perfmodel", *arguments, "--json"]),
        contextlib.redirect_stdout(out),
    ):
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, json.loads(out.getvalue())
    return 0, json.loads(out.getvalue())


@settings(deadline=None, max_examples=120)
@given(asked=ASKED)
def test_any_value_is_answered_or_told(asked):
    verb, option, value = asked
    code, document = _run([*VERBS[verb].split(), f"{option}={value}"])
    assert code in (0, 2, 3)
    if code == 2:
        assert set(document) == PARTS
        assert all(document[part] for part in ("where", "got", "accepted", "repair"))
