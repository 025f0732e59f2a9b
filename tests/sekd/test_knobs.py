"""What acts after training: it changes neither what is trained nor the name of it, and a network takes it later."""

import pytest
import torch

from sekd.checkpoint import hash_of_weights, load_model, save_model
from sekd.config import parse
from sekd.distillation import DistillConfig
from sekd.models import CruseConfig, build
from sekd.preparation import Hashes

HASHES = Hashes(pool="p", valid="v", teacher=None)
SMALL = {"channels": [4, 8], "gru_groups": 2, "bands": 16}


def identity(**student):
    document = {
        "distill": {"schedule": {"kind": "supervised"}},
        "data": {"train": {"manifest": "demo"}, "valid": {"manifest": "demo"}},
        "student": student,
    }
    return parse(DistillConfig, document, "test").identity(HASHES)


@pytest.mark.parametrize(
    ("student", "before_gates"),
    [
        ({}, "87b0428caa8b4a3c"),
        ({"width": 12}, "45e288cd9b74e000"),
        ({"family": "dccrn"}, "d34e057ce09a0191"),
        ({"family": "conv_tasnet"}, "c46b669188e1cba3"),
    ],
)
def test_students_without_gates_are_called_as_ever(student, before_gates):
    assert identity(**student) == before_gates


def test_a_threshold_makes_no_other_training():
    assert identity(gate={}) == identity(gate={"threshold": 0.2}) != identity()
    assert identity(gate={}) != identity(gate={"static_share": 0.25})


def test_a_trained_network_takes_a_threshold(tmp_path):
    torch.manual_seed(0)
    model = build(CruseConfig(**SMALL, gate={})).eval()
    weights, noisy = hash_of_weights(model), torch.randn(1, 4000)
    for threshold, share in ((0.0, 1.0), (1.0, 0.0)):
        model.take_knobs(CruseConfig(**SMALL, gate={"threshold": threshold}))
        save_model(model, tmp_path / "model.safetensors")
        again = load_model(tmp_path / "model.safetensors")
        assert again.config.gate.threshold == threshold and hash_of_weights(model) == weights
        for each in (model, again):
            with torch.no_grad(), each.watched() as gates:
                each(noisy)
            assert gates[0].mean() == share
    assert torch.equal(model(noisy), again(noisy))


def test_a_network_without_gates_has_no_knobs():
    model = build(CruseConfig(**SMALL))
    model.take_knobs(CruseConfig(**SMALL, gate={}))
    assert model.config.gate is None
