import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from d2detr.checkpoint.pickles import RefusedPickle, load_arrays


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_numbers_and_texts_are_read(protocol):
    content = OrderedDict(
        array=np.arange(6, dtype=np.float32).reshape(2, 3),
        fortran=np.asfortranarray(np.eye(3)[:, :2]),
        number=np.float32(2.5),
        nested={"text": "é", "list": [1, None, (2.0, True)], "bytes": b"\xff"},
    )
    loaded = load_arrays(io.BytesIO(pickle.dumps(content, protocol)))
    np.testing.assert_array_equal(loaded["array"], content["array"])
    np.testing.assert_array_equal(loaded["fortran"], content["fortran"])
    assert loaded["number"] == 2.5
    assert loaded["nested"] == content["nested"]


@pytest.mark.parametrize(
    "pickled, needs",
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"c_codecs\nencode\n(VA\nS'zlib_codec'\ntR.", "_codecs.encode with zlib_codec"),
    ],
)
def test_everything_else_is_refused(pickled, needs):
    with pytest.raises(RefusedPickle) as refusal:
        load_arrays(io.BytesIO(pickled))
    assert refusal.value.needs == needs
