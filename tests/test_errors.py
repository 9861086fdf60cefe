import pytest
from torch.utils.data import DataLoader, Dataset

from d2detr.errors import UserError


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("truncated")
        except OSError as error:
            raise UserError("a.jpg cannot be read.\nReplace it.") from error


def test_message_survives_a_loader_process():
    with pytest.raises(UserError) as error:
        list(DataLoader(Broken(), num_workers=1))
    assert str(error.value) == "a.jpg cannot be read.\nReplace it."
