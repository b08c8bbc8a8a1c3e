from symbreak.sweeps.run.outcome import outcome


def test_the_outcome_of_a_run():
    summary = {
        "test/accuracy": 0.27123,
        "symmetry/distinct_filters": 1.0,
        "symmetry/distinct_filters/stem": 1.0,
        "symmetry/distinct_filters/conv": 1.0,
        "symmetry/distinct_filters/head": 10.0,
        "symmetry/growth_rate": None,
    }
    assert list(outcome(summary).values()) == ["27.1%", "1 in 2 of 2 layers", "never", "never", "-"]
    wide = summary | {"symmetry/distinct_filters/stem": 16.0, "symmetry/distinct_filters/conv": 64.0}
    assert outcome(wide)["distinct filters"] == "16 to 64"
    assert set(outcome({}).values()) == {"-"}
