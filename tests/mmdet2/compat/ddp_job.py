"""One rank of the job of test_ddp.py: uses ``MMDistributedDataParallel`` as mmdet does."""

import models_mm  # isort: skip  # noqa: F401

import sys
from pathlib import Path

import ranks
import torch
import torch.distributed as dist
from mmdet.apis import train
from tiny_detector import TinyDetector, inference_batch, training_batch


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def wrap(model, **settings):
    """As in ``mmdet.apis.train_detector``, by the name that it has there."""
    return train.build_ddp(model, "cpu", device_ids=[0], broadcast_buffers=False, **settings)


def train_two_steps(rank):
    ddp = wrap(TinyDetector().train())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    found = {}
    for step in range(2):  # the second one runs on rebuilt buckets
        output = ddp.train_step(training_batch(10 * step + rank), optimizer)
        optimizer.zero_grad()
        output["loss"].backward()
        found[f"gradients {step}"] = gradients(ddp.module)
        optimizer.step()
    found["loss"] = output["log_vars"]["loss"]
    found["num_samples"] = output["num_samples"]
    found["val_loss"] = ddp.val_step(training_batch(rank), optimizer)["log_vars"]["loss_val"]
    ddp.eval()
    with torch.no_grad():
        found["results"] = ddp(return_loss=False, rescale=True, **inference_batch(rank))
    return found


def train_with_unused_layer(rank):
    ddp = wrap(TinyDetector(extra=True), find_unused_parameters=True)
    ddp.train_step(training_batch(rank), None)["loss"].backward()
    unused = "extra.weight" in gradients(ddp.module)
    ddp.zero_grad()
    # rank 1 alone uses the layer
    ddp.train_step(training_batch(rank, use_extra=rank == 1), None)["loss"].backward()
    return {"unused layer has a gradient": unused, "gradients": gradients(ddp.module)}


def train_with_wrapped_forward(rank):
    model, calls = TinyDetector(), []
    original = model.forward

    def counted(*args, **kwargs):
        calls.append(kwargs.get("return_loss", True))
        return original(*args, **kwargs)

    model.forward = counted
    ddp = wrap(model)
    ddp.train_step(training_batch(rank), None)["loss"].backward()
    with torch.no_grad():
        ddp.val_step(training_batch(rank), None)
        ddp(return_loss=False, **inference_batch(rank))
    return {"calls": calls, "kept": model.forward is counted}


def fail_and_go_on(rank):
    ddp = wrap(TinyDetector())
    broken = training_batch(rank)
    del broken["gt_bboxes"]
    try:
        ddp.train_step(broken, None)
    except TypeError as error:
        message = str(error)
    ddp.train_step(training_batch(rank), None)["loss"].backward()
    return {"message": message, "own forward": "forward" in vars(ddp.module)}


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    parts = (train_two_steps, train_with_unused_layer, train_with_wrapped_forward, fail_and_go_on)
    torch.save({part.__name__: part(rank) for part in parts}, Path(sys.argv[1]) / f"{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks.run(main)
