"""Train on two processes with DistributedDataParallel: the gradients are those of one process.

Each process computes the gradients of its half of the batch, and DDP averages them. With a loss
that is a mean over samples this is the gradient of the whole batch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import convext

PROCESSES = 2


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    return convext.convert(model)


def make_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.arange(8) % 4


def gradients(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    nn.functional.cross_entropy(model(images), labels).backward()
    return {
        name.removeprefix("module."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    images, labels = make_batch()
    model = DistributedDataParallel(make_model())
    own = slice(rank, None, PROCESSES)
    torch.save(gradients(model, images[own], labels[own]), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    expected = gradients(make_model(), *make_batch())
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder,), nprocs=PROCESSES)
        for rank in range(PROCESSES):
            found = torch.load(Path(folder) / f"{rank}.pt")
            assert found.keys() == expected.keys()
            torch.testing.assert_close(found, expected)
    print(f"{PROCESSES} processes: {len(expected)} gradients equal those of one process")


if __name__ == "__main__":
    main()
