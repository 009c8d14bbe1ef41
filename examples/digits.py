"""Train a small CNN on scikit-learn's digits (1,797 images of 8×8 pixels) with its convs on a cluster.

    python -m examples.digits                                  four workers in this process
    python -m examples.digits --cluster tcp://pi1:5555,…       workers elsewhere
    python -m examples.digits --alone                          torch alone, for comparison

Prints the loss as it falls and the accuracy on a quarter of the images that training never saw. The same seed gives
the same losses with the cluster and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import nn

import fogconv

EPOCHS = 12
BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) from 0 to 1, and the digits that they show."""

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor


def digits() -> Digits:
    """A fixed shuffle; every fourth image is for the test."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    test = torch.arange(len(images)) % 4 == 0
    return Digits(images[~test], labels[~test], images[test], labels[test])


def network(conv: Callable[..., nn.Module] = nn.Conv2d) -> nn.Sequential:
    """Three convs and a linear layer, 10 classes. ``conv`` is the one thing that changes."""
    return nn.Sequential(
        conv(1, 16, 3, padding=1),
        nn.ReLU(),
        conv(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def train(
    model: nn.Module, data: Digits, *, epochs: int = EPOCHS, steps: int | None = None, seed: int = 0, tell: bool = False
) -> list[float]:
    """SGD with momentum; the loss of each step (at most ``steps``)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for epoch in range(epochs):
        order = torch.randperm(len(data.train_x), generator=generator)
        for batch in order.split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data.train_x[batch]), data.train_y[batch])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if len(losses) == steps:
                return losses
        if tell:
            mean = sum(losses[-len(order) // BATCH :]) / len(losses[-len(order) // BATCH :])
            print(f"epoch {epoch + 1:2}  loss {mean:.4f}  test accuracy {accuracy(model, data):.1%}")
    return losses


def accuracy(model: nn.Module, data: Digits) -> float:
    with torch.no_grad():
        return float((model(data.test_x).argmax(1) == data.test_y).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", default="inproc://4", help="as fogconv-run's (default: four workers in this process)")
    parser.add_argument("--alone", action="store_true", help="torch alone")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model, data = network(), digits()
    if options.alone:
        train(model, data, epochs=options.epochs, seed=options.seed, tell=True)
        return
    with fogconv.connect(options.cluster) as cluster:
        # Threshold 0 sends every conv out: these are far too small to gain anything, they show that training works.
        model = fogconv.distribute(model, cluster, threshold=0, split="output")
        train(model, data, epochs=options.epochs, seed=options.seed, tell=True)
    print(f"at home again, the cluster closed: {accuracy(model, data):.1%}")


if __name__ == "__main__":
    main()
