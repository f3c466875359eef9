from perfmodel.errors import PerfmodelError, SpecError, nearest_name


def test_message_holds_the_five_parts():
    error = SpecError(
        "my-gpu.toml: memory.bandwith",
        "2 TB/s",
        "fields bandwidth, capacity",
        nearest="bandwidth",
        repair="rename the field",
    )
    text = str(error)
    for part in ("my-gpu.toml", "2 TB/s", "fields bandwidth", "bandwidth", "rename the field"):
        assert part in text
    assert error.to_dict()["error"] == "SpecError"
    assert isinstance(error, PerfmodelError)


def test_long_values_are_cut():
    error = SpecError("x", "y" * 10_000, "short", repair="shorten it")
    assert len(error.got) <= 120


def test_nearest_name_ignores_case_and_gives_up_on_strangers():
    assert nearest_name("H100-SXM5-80gb", ["h100-sxm5-80gb", "t4"]) == "h100-sxm5-80gb"
    assert nearest_name("zzzzzz", ["h100", "t4"]) is None
