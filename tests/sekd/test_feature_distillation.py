"""Terms on activations: cached and live, and the configurations in which they cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_distillation import TINY, configure

from sekd.checkpoint import hash_of_weights
from sekd.config import parse
from sekd.distillation import DistillConfig, batches, distill
from sekd.errors import InputError
from sekd.models import CruseConfig, build
from sekd.preparation import Prepared, prepare

SIMILAR = {"term": "similarity", "schedule": {"kind": "two_step"}}
TRAIN = {"steps": 4, "batch": 16}


def config_of(corpus: Path, **changes) -> DistillConfig:
    return configure(corpus, **{"distill": SIMILAR, "train": TRAIN, **changes})


def teacher_of(**changes) -> dict:
    return {"network": {**TINY, "width": 4}, "train": {"steps": 4, "batch": 2}, **changes}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(corpus, cache) -> Prepared:
    config = config_of(corpus)
    return prepare(config.data, config.teacher, seed=0, cache=cache, features=True)


def test_recorded_activations_lie_on_the_stated_grids():
    network = build(CruseConfig())
    with network.recorded() as recorded, torch.no_grad():
        network(torch.zeros(2, 16000))
    frames = {x.shape[2] for x in recorded}
    assert len(frames) == 1
    assert [x.shape[3] for x in recorded] == [block.freqs for block in network.config.blocks]
    assert [x.shape[1] for x in recorded] == [8, 16, 32, 32, 32, 32, 16, 8, 1]
    assert float(recorded[-1].min()) > 0 and float(recorded[-1].max()) < 1  # the mask
    with torch.no_grad():
        network(torch.zeros(1, 16000))
    assert len(recorded) == 9  # nobody records any more


def test_cached_activations_are_the_live_ones_rounded(corpus, cache, prepared):
    assert prepared.activations is not None
    cached = batches(config_of(corpus), prepared, cache)(1)
    live = batches(config_of(corpus), prepared._replace(activations=None), cache)(1)
    assert torch.equal(cached.noisy, live.noisy)
    pairs = list(zip(cached.features("cpu"), live.features("cpu"), strict=True))
    assert len(pairs) == 5
    for kept, fresh in pairs:
        assert kept.shape == fresh.shape and torch.allclose(kept, fresh, rtol=1e-3, atol=1e-3)


def test_cached_and_live_teachers_give_nearly_the_same_student(corpus, cache, prepared):
    cached = distill(config_of(corpus), prepared=prepared, cache=cache).model
    live = distill(config_of(corpus), prepared=prepared._replace(activations=None), cache=cache).model
    assert hash_of_weights(cached) != hash_of_weights(live)
    for a, b in zip(cached.parameters(), live.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_an_identity_says_whether_activations_were_rounded(corpus, prepared):
    kinds = [config_of(corpus, teacher=teacher_of(features=kind)) for kind in ("cached", "live")]
    assert len({config.identity(prepared.hashes) for config in kinds}) == 2
    outputs = [config.model_copy(update={"distill": configure(corpus).distill}) for config in kinds]
    assert len({config.identity(prepared.hashes) for config in outputs}) == 1


def test_activations_are_read_only_while_a_term_wants_them(corpus, cache, prepared, monkeypatch):
    reads = []

    def features(rows, device):
        reads.append(len(rows))
        return original_features(rows, device)

    import sekd.distillation as distillation

    original_features = distillation.cached_features(prepared.activations)
    monkeypatch.setattr(distillation, "cached_features", lambda folder: features)
    distill(config_of(corpus), prepared=prepared, cache=cache)  # a quarter of four steps follows the teacher
    assert reads == [16]


def test_a_live_teacher_keeps_nothing_on_disk(corpus, tmp_path):
    config = config_of(corpus, teacher=teacher_of(features="live"))
    assert prepare(config.data, config.teacher, seed=0, cache=tmp_path, features=True).activations is None
    assert not list(tmp_path.glob("activations*"))


def test_activations_beyond_the_limit_are_refused_before_they_are_written(corpus, cache, prepared):
    config = config_of(corpus, teacher=teacher_of(features_gib=1e-6))
    with pytest.raises(InputError, match="teacher.features_gib = 1e-06: .* would take .* GiB of disk"):
        prepare(config.data, config.teacher, seed=0, cache=cache, features=True)


def test_small_batches_are_refused(corpus):
    with pytest.raises(InputError, match="train.batch = 8: terms 'similarity' .* at least 16"):
        config_of(corpus, train={"steps": 4, "batch": 8})


def test_networks_with_other_blocks_are_refused(corpus, cache, prepared):
    with pytest.raises(InputError, match=r"'similarity' cannot compare them: the student \(cruse\) has blocks of 8, 8"):
        config_of(corpus, student={**TINY, "depth": 1})
    unknown = config_of(corpus, student={**TINY, "depth": 1}, teacher={"model": str(prepared.teacher)})
    with pytest.raises(InputError, match="cannot compare them"):
        distill(unknown, prepared=prepared, cache=cache)


def test_several_weighted_terms_may_follow_the_teacher(corpus, cache, prepared):
    both = {"term": {"similarity": 1.0, "dfkd": 0.5}, "kd_scale": 2.0}
    config = config_of(corpus, distill=both)
    (phase,) = config.distill.phases(4)
    assert phase.weights == {"compressed": 0.5, "similarity": 1.0, "dfkd": 0.5}
    assert distill(config, prepared=prepared, cache=cache).model is not None
    with pytest.raises(InputError, match="'dfdk'.*did you mean 'dfkd'"):
        config_of(corpus, distill={"term": {"dfdk": 1.0}})


def test_flow_of_a_kind_without_flows_is_refused(corpus):
    with pytest.raises(InputError, match="gram.kind = 'g_f': the term 'flow' knows g_tf and g_t"):
        config_of(corpus, distill={"term": "flow", "gram": {"kind": "g_f"}})
    document = config_of(corpus).model_dump(mode="json") | {"distill": {"term": "flow", "gram": {"kind": "g_t"}}}
    assert parse(DistillConfig, document, "x").distill.reads_features
