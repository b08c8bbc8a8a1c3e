"""A callback that notes what the sources of randomness gave a run in its first step."""

from typing import Any, ClassVar

from pytorch_lightning import Callback
from torch import nn

from symbreak.callbacks import RoundingNoise


class Spy(Callback):
    seen: ClassVar[dict] = {}

    def on_train_start(self, trainer: Any, pl_module: Any):
        loader = trainer.train_dataloader
        draws = loader.augmentation.draw(50, 8, loader.sampler.indices, loader.augmentation_seed, epoch=0)
        self.seen.clear()
        self.seen["augmentation"] = draws["shift"]
        self.seen["init"] = pl_module.stem.weight.detach().clone()
        for module in pl_module.modules():
            if isinstance(module, nn.Dropout):
                module.register_forward_hook(self._see_mask)

    def _see_mask(self, module, args, output):
        if module.training:
            self.seen.setdefault("dropout", (output == 0) & (args[0] != 0))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.setdefault("images", batch[0].clone())
        self.seen.setdefault("order", batch[1].clone())

    def on_train_batch_end(self, trainer: Any, pl_module, outputs, batch, batch_idx):
        noise = next(callback for callback in trainer.callbacks if isinstance(callback, RoundingNoise))
        self.seen.setdefault("rounding", noise.state_dict()["cpu"])
