"""The small set of recordings is a cut of the full ones, and the weights drawn again are the recorded ones."""

import json

import numpy as np
import pytest
import torch

from tests.data import make_fcclip_parity, make_parity
from tests.data.fcclip_networks import SEEDS, recorded_state
from tests.support.parity import FOLDER, FULL_WEIGHTS, SMALL, full_recordings, released_state

SKIPPED = {"weights.json", "fcclip.json", "fcclip_weights.npz"}
"""Compared by the tensors that they draw."""


@pytest.mark.parametrize("name", FULL_WEIGHTS)
def test_the_weights_drawn_again_are_the_recorded_ones(full_recordings_folder, name):
    recorded = torch.load(full_recordings_folder / FULL_WEIGHTS[name], weights_only=True)
    recorded, drawn = recorded.get("model", recorded), released_state(name)
    assert drawn.keys() == recorded.keys()
    rounded = [key for key, value in recorded.items() if not torch.equal(drawn[key], value.float())]
    # Drawn in other roundings: the `no object` vector, and on some processors variances, which go through a tanh.
    assert all(key.endswith(("bg_feature", "running_var")) for key in rounded), rounded
    for key in rounded:  # one unit in the last place
        torch.testing.assert_close(drawn[key], recorded[key], rtol=1.2e-7, atol=0)


@pytest.mark.parametrize("name", SEEDS)
def test_the_weights_of_fcclip_drawn_again_are_the_recorded_ones(full_recordings_folder, name):
    recorded = torch.load(full_recordings_folder / "fcclip" / name / "model.pth", weights_only=True)["model"]
    drawn = recorded_state(name)
    assert drawn.keys() == recorded.keys()
    assert all(torch.equal(drawn[key], value) for key, value in recorded.items())


def test_the_small_set_is_a_cut_of_the_full_recordings(full_recordings_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(make_parity, "FOLDER", tmp_path)
    make_parity.write_network(full_recordings_folder / "tiny")
    make_parity.write_handmade(full_recordings_folder / "postproc")
    make_parity.write_training(full_recordings_folder / "tiny_train")
    make_parity.write_evaluator(full_recordings_folder / "eval")
    make_parity.write_text(full_recordings_folder)
    make_fcclip_parity.write_arrays(full_recordings_folder)
    make_fcclip_parity.write_training(full_recordings_folder / "fcclip" / "train")
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {path.name for path in FOLDER.glob("*.*") if path.suffix in (".json", ".npz")} - SKIPPED
    for name in written:
        if name.endswith(".json"):
            assert json.loads((tmp_path / name).read_text()) == json.loads((FOLDER / name).read_text())
            continue
        with np.load(tmp_path / name) as cut, np.load(FOLDER / name) as stored:
            assert cut.files == stored.files
            assert all(np.array_equal(cut[key], stored[key]) for key in stored.files), name


def test_training_was_recorded_with_the_text_features_of_the_seen_classes(full_recordings_folder):
    trained_with = full_recordings(full_recordings_folder)("training")["text_features"]
    assert np.array_equal(trained_with, SMALL("network")["text/test"][:15])
