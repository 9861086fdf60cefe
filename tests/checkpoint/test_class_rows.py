from d2detr.checkpoint.class_rows import known_names, match_classes, names_of_classes


def test_coco_heads_are_known_by_their_size():
    assert names_of_classes(91, None)[18] == "dog"
    assert names_of_classes(91, None)[12] is None  # an id that COCO does not use
    assert names_of_classes(80, None)[16] == "dog"
    assert names_of_classes(250, None)[92] == "banner"
    assert names_of_classes(133, None)[80] == "banner"
    assert names_of_classes(5, None) is None


def test_given_names_win_if_there_are_as_many_as_classes():
    assert names_of_classes(2, ["a", "b"]) == ["a", "b"]
    assert names_of_classes(80, ["a", "b"])[0] == "person"


def test_every_class_of_pascal_voc_is_one_of_coco():
    from detectron2.data import MetadataCatalog

    voc = MetadataCatalog.get("voc_2012_train").thing_classes
    coco = names_of_classes(91, None)
    matched = match_classes(voc, coco)
    assert [coco[matched[i]] for i, name in enumerate(voc) if name in ("tvmonitor", "dog")] == [
        "dog",
        "tv",
    ]
    assert len(matched) == 20


def test_names_match_regardless_of_case_and_spaces():
    wanted = ["Traffic Light", "traffic_light", "unheard of", None]
    assert match_classes(wanted, [None, "traffic light", "traffic light"]) == {0: 1, 1: 1}


def test_placeholders_are_no_names():
    assert known_names(["LABEL_0", "LABEL_1"]) is None
    assert known_names(["N/A", "person"]) == ["N/A", "person"]
