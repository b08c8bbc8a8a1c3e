"""What the ranks of the traces do; each function runs in every rank."""

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy
from tests.ddp.training import be_a_rank, fit
from torch.nn.functional import cross_entropy

from symbreak.callbacks import Determinism, OrderedDDPStrategy, SymmetryTrace
from symbreak.callbacks.tracing import trace
from symbreak.callbacks.tracing.recorder import Recorder, fingerprint
from symbreak.lightning_modules import ConstNet
from symbreak.sweeps.trace.command import main


def network():
    return ConstNet(depth=7, widen_factor=1, in_channels=1)


class Local(ConstNet):
    """Scales the local gradient of one filter on rank 1."""

    def on_train_start(self):
        if dist.get_rank() == 1:
            self.get_parameter("blocks.1.conv.weight").register_hook(scaled)


def scaled(gradient):
    return gradient * torch.linspace(1, 2, len(gradient))[:, None, None, None]


class Manual(LightningModule):
    """Manual optimisation with two optimisers."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.network = network()

    def training_step(self, batch, batch_idx):
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(cross_entropy(self.network(batch[0]), batch[1]))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        rest = [p for name, p in self.network.named_parameters() if not name.startswith("head.")]
        return [torch.optim.SGD(rest, 0.03), torch.optim.SGD(self.network.head.parameters(), 0.03)]


def _ddp(kind=DDPStrategy, **options):
    return kind(process_group_backend="gloo", **options)


CASES = {
    "default": lambda: (network(), _ddp()),
    "bucket views": lambda: (network(), _ddp(gradient_as_bucket_view=True)),
    "several buckets": lambda: (network(), _ddp(bucket_cap_mb=0.05)),
    "manual": lambda: (Manual(), _ddp()),
    "ordered": lambda: (network(), _ddp(OrderedDDPStrategy, gradient_as_bucket_view=True)),
    "local": lambda: (Local(depth=7, widen_factor=1, in_channels=1), _ddp(OrderedDDPStrategy)),
}


def found():
    """Finding and traces of each case, and whether watching and replaying changed no bit of the default one."""
    results = {}
    for name, make in CASES.items():
        finals = []
        for replays in (2, 0) if name == "default" else (2,):
            module, strategy = make()
            watch = SymmetryTrace(replays)
            fit(module, [Determinism("strict"), watch], steps=3, strategy=strategy)
            finals.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
            if replays:
                results[name] = [watch.found, watch.traces]
        results[name].append(all(torch.equal(finals[0], final) for final in finals))
    return results


def plain_loop():
    """Three steps of a plain loop that averages gradients by itself, on other images on each rank."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(16, 1, 8, 8, generator=generator)
    with trace(model, optimizer) as result:
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(model(images), torch.arange(16) % 10).backward()
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.grad /= dist.get_world_size()
                dist.all_reduce(parameter.grad)
            optimizer.step()
    return result


def broadcast_gradients():
    """A step whose gradients come from rank 0, which alone scales them by channel."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    with trace(model, optimizer) as result:
        cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 10).backward()
        gradient = model.get_parameter("stem.weight").grad
        assert gradient is not None
        if dist.get_rank() == 0:
            gradient += torch.linspace(1, 2, len(gradient))[:, None, None, None]
        dist.broadcast(gradient, 0)
        optimizer.step()
    return result


def recorded_all_reduce():
    """The recorded hash of a large asynchronous all-reduce, and that of its result."""
    tensor = torch.arange(2.0**21) * (dist.get_rank() + 1)
    with Recorder(network(), []) as recorder:
        work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    work.wait()
    (operation,) = (each for each in recorder.operations if each.operation == "c10d::allreduce_")
    return operation.made, fingerprint(tensor)


def command_line(arguments):
    """Run ``symbreak trace``."""
    be_a_rank()
    main(arguments)
