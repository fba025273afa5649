"""``MMDistributedDataParallel`` on torch >= 2.0, and on the CPU.

mmcv 1.7 repeats the inside of one version's ``DistributedDataParallel.forward`` in ``train_step``
and ``val_step`` and overrides ``_run_ddp_forward`` with a body that asks for
``_use_replicated_tensor_module``, which torch 2.0 removed. Here all three go through the forward
of the installed torch. mmcv also leaves DataContainers packed when there is no GPU, and
``mmdet.utils.build_ddp`` refuses the CPU.
"""

import warnings

import mmdet.apis  # noqa: F401  (holds a copy of build_ddp that must be replaced too)
from mmcv.parallel import MMDistributedDataParallel
from mmdet.utils import util_distribution
from torch.nn.parallel import DistributedDataParallel

from models_mm.mmdet2.compat.replace import replace_everywhere


def forward(self, *inputs, **kwargs):
    """Unpack DataContainers onto this process's device, then run the real DDP forward."""
    inputs, kwargs = self.scatter(inputs, kwargs, self.device_ids or [-1])
    return DistributedDataParallel.forward(self, *inputs[0], **kwargs[0])


def call_through_forward(self, method: str, *inputs, **kwargs):
    """Run ``module.<method>`` as the module's forward inside the real DDP forward.

    ``train_step`` itself calls ``self(...)``, so the redirection ends as soon as it is taken.
    """
    module = self.module
    own_forward = module.__dict__.get("forward")  # set by those who wrap forward on the instance

    def restore():
        module.__dict__.pop("forward", None)
        if own_forward is not None:
            module.__dict__["forward"] = own_forward

    def redirected(*args, **kw):
        restore()
        return getattr(module, method)(*args, **kw)

    module.__dict__["forward"] = redirected
    try:
        return self(*inputs, **kwargs)
    finally:
        restore()


def train_step(self, *inputs, **kwargs):
    """The module's ``train_step``, with gradients synchronised over the processes."""
    return call_through_forward(self, "train_step", *inputs, **kwargs)


def val_step(self, *inputs, **kwargs):
    """The module's ``val_step``, run through the DDP forward."""
    return call_through_forward(self, "val_step", *inputs, **kwargs)


_build_ddp = util_distribution.build_ddp


def build_ddp(model, device="cuda", *args, **kwargs):
    """``mmdet.utils.build_ddp`` that knows the CPU, where DDP takes no device ids."""
    if device == "cpu":
        kwargs.pop("device_ids", None)
        return MMDistributedDataParallel(model, *args, **kwargs)
    return _build_ddp(model, device, *args, **kwargs)


def apply() -> None:
    # mmdet 2.28 passes broadcast_buffers, whose successor torch < 2.13 does not know
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    MMDistributedDataParallel.forward = forward
    MMDistributedDataParallel.train_step = train_step
    MMDistributedDataParallel.val_step = val_step
    # "_run_ddp_forward" in vars(...): a second apply() finds it gone
    if "_run_ddp_forward" in vars(MMDistributedDataParallel):
        del MMDistributedDataParallel._run_ddp_forward
    replace_everywhere(_build_ddp, build_ddp)
