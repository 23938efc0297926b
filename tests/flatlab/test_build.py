"""Networks and optimizers by the names that settings give them."""

from dataclasses import replace

import pytest
import torch

from flatlab.build import build_model
from flatlab.sets import kind_of
from flatlab.settings import Settings, load_recipe, recipes

SMALL = Settings.of(
    {"data": "cifar-10", "model": "cnn-bn", "method": "IAM-D", "rho": 0.1, "seed": 3}
    | {"tier": "smoke", "epochs": 3, "steps_per_epoch": 2, "batch_size": 4}
)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match=r"model must be cnn-bn, .* got 'lenet'"):
        build_model(replace(SMALL, model="lenet"))
    with pytest.raises(ValueError, match="model must be residual for simclr, got 'cnn6'"):
        build_model(replace(SMALL, model="cnn6", loop="simclr"))


def test_the_small_networks_go_by_their_names():
    settings = replace(SMALL, data="fashion-mnist-part", tier="paper")
    sizes = {"cnn-bn": 3778, "cnn3": 24_058}
    for name, size in sizes.items():
        model = build_model(replace(settings, model=name))
        assert sum(p.numel() for p in model.parameters()) == size


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_builds_its_network_at_full_size(recipe):
    for settings in {s.model: s for s in load_recipe(recipe).values()}.values():
        kind = kind_of(settings)
        with torch.device("meta"):
            model = build_model(settings).to("meta")
            outputs = model(torch.empty(2, kind.channels, kind.size, kind.size))
        assert outputs.shape == (2, 128 if settings.loop == "simclr" else kind.classes)
