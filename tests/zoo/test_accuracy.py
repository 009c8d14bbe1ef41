"""Published accuracies: torchvision's own figures, copied once."""

from __future__ import annotations

from fogconv.zoo.accuracy import accuracies, source


def test_accuracies_are_those_that_torchvision_publishes() -> None:
    from fogconv.zoo.models import LITE, classifier_names, torchvision_models

    models = torchvision_models()
    assert set(accuracies()) == set(classifier_names())
    for name, ours in accuracies().items():
        if name == LITE:
            assert ours.source
            continue
        weights = models.get_model_weights(name).DEFAULT
        theirs = weights.meta["_metrics"]["ImageNet-1K"]
        assert (ours.weights, ours.top1, ours.top5) == (weights.name, theirs["acc@1"], theirs["acc@5"])
    assert "torchvision" in source()
