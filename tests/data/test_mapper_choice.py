import pytest
from detectron2.data import DatasetMapper

from d2detr.data import DetrDatasetMapper, build_dataset_mapper
from d2detr.errors import UserError


@pytest.mark.parametrize(
    ("name", "expected"), [("detr", DetrDatasetMapper), ("default", DatasetMapper)]
)
@pytest.mark.parametrize("is_train", [True, False])
def test_config_names_the_mapper(cfg, name, expected, is_train):
    cfg.INPUT.DATASET_MAPPER_NAME = name
    mapper = build_dataset_mapper(cfg, is_train)
    assert type(mapper) is expected
    assert mapper.is_train == is_train


def test_unknown_mapper(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "detre"
    with pytest.raises(UserError, match="DATASET_MAPPER_NAME is 'detre'.*'default', 'detr'"):
        build_dataset_mapper(cfg, is_train=True)
