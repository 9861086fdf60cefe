from d2detr.measure.waiting import compare_waiting, format_comparison


def test_ways_to_wait_are_timed_in_turn():
    small = {"config_file": "configs/quickstart.yaml", "size": (64, 64)}
    small["opts"] = ("MODEL.DEVICE", "cpu", "MODEL.DETR.HIDDEN_DIM", "32")
    ways = {"short": {"GOMP_SPINCOUNT": "10"}, "one": {"OMP_NUM_THREADS": "1"}}
    timings = compare_waiting("eval", small, ways, rounds=2, neighbours=1)
    assert list(timings) == ["short", "one"]
    assert all(timing.median > 0 for timing in timings.values())
    first, _, *rows = format_comparison({"beside": timings}).splitlines()
    assert "beside" in first and len(rows) == 2
