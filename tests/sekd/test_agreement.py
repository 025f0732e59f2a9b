"""SI-SDR between two files: infinite of equal ones, refused of a broken one."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import gain_onnx, speech_like

from sekd.agreement import agreement_db
from sekd.errors import InputError


def test_agreement_of_two_files(tmp_path):
    plain, louder = gain_onnx(tmp_path / "a.onnx", gain=1.0), gain_onnx(tmp_path / "b.onnx", gain=1.0, bias=0.01)
    assert agreement_db(plain, plain, [speech_like(1.0)]) == np.inf
    one = agreement_db(louder, plain, [speech_like(1.0)])
    assert one == pytest.approx(agreement_db(louder, plain, [speech_like(1.0), np.zeros(1000, np.float32)]))
    assert 0 < one < 80


@pytest.mark.parametrize("gain, reason", [(0.0, "the estimate is silent"), (np.nan, "not finite")])
def test_a_broken_file_is_refused(tmp_path, gain, reason):
    plain, broken = gain_onnx(tmp_path / "a.onnx"), gain_onnx(tmp_path / "b.onnx", gain=gain)
    with pytest.raises(InputError, match=f"b.onnx: not the network of a.onnx: .*{reason}"):
        agreement_db(broken, plain, [speech_like(1.0)])
