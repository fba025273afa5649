"""Testing a detector: mmdet's own loop, behind checked input."""

import argparse
import os
import time
import warnings
from itertools import chain, zip_longest
from pathlib import Path

import mmcv
from mmcv import Config
from mmcv.cnn import fuse_conv_bn
from mmcv.runner import get_dist_info, wrap_fp16_model
from mmdet.datasets import replace_ImageToTensor
from mmdet.utils import build_ddp, build_dp
from torch import distributed as dist
from torch import nn

from models_mm.checkpoints import load_checkpoint
from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.data.images import read_image, regular_file
from models_mm.deployment.exported import ExportedModel
from models_mm.distributed import watchdog
from models_mm.errors import UserError
from models_mm.evaluation.masks import encode_result
from models_mm.mmdet2 import work_dirs
from models_mm.mmdet2.building import build_data, build_model, join, own_gpu, prepare
from models_mm.mmdet2.configs import check_files, compatible, load_config
from models_mm.mmdet2.data_files import check_image_files, files_of, images_on_disk
from models_mm.mmdet2.evaluation import check_evaluation, predict
from models_mm.mmdet2.loaders import Loader
from models_mm.mmdet2.preparation import pipelines, preparation
from models_mm.mmdet2.result_files import write_results
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.show import shower
from models_mm.outputs import refuse_input

# settings of the evaluation hooks, which dataset.evaluate() does not take
HOOK_SETTINGS = (
    *("interval", "start", "dynamic_intervals", "by_epoch", "test_fn"),
    *("save_best", "rule", "greater_keys", "less_keys", "out_dir", "file_client_args"),
    *("tmpdir", "gpu_collect", "broadcast_bn_buffer", "pictures"),
)


def run(args: argparse.Namespace) -> None:
    """Test as the options of :mod:`models_mm.cli.test` say.

    Raises:
        UserError: something that the user gave is wrong, or something outside the program fails.
    """
    cfg = load_config(args.config, args.cfg_options)
    if args.exported:
        regular_file(args.exported, "exported detector")
    elif not is_url(args.checkpoint) and not Path(args.checkpoint).expanduser().is_file():
        raise UserError(missing_file_message(args.checkpoint))
    check_settings(cfg, ("test",))
    check_files(cfg, ("test",))
    cfg = compatible(cfg)
    prepare(cfg, args)
    loader = build_loader(cfg)
    if args.out:
        refuse_input(args.out, [args.config, args.checkpoint, *files_of(loader.dataset)])
    if args.exported:
        run_exported(cfg, args, loader.dataset)
        return
    distributed = join(cfg, args)
    loader.take_share(dist=distributed, shuffle=False)
    model = load_model(cfg, args.checkpoint, args.fuse_conv_bn)
    if args.eval:
        names = {"metric": "--eval", "option": "--eval-options: "}
        check_evaluation(loader.dataset, model, evaluation_options(cfg, args), names)
    compare_classes(model, loader.dataset, args)
    model.CLASSES = getattr(model, "CLASSES", None) or loader.dataset.CLASSES

    if distributed:
        model = build_ddp(model, cfg.device, device_ids=own_gpu(cfg), broadcast_buffers=False)
        watchdog.start(cfg)
    else:
        model = build_dp(model, cfg.device, device_ids=cfg.gpu_ids)
    show = None
    if args.show or args.show_dir:
        show = shower(model, loader.dataset, args.show, args.show_dir, args.show_score_thr)
    results = predict(model, loader, show)
    if get_dist_info()[0] == 0:
        with watchdog.paused("evaluating"):
            use_results(cfg, args, loader.dataset, results)
    loader.close()
    if distributed:
        watchdog.stop()
        dist.destroy_process_group()


def run_exported(cfg: Config, args: argparse.Namespace, dataset) -> None:
    """Test an exported detector on a data set.

    Raises:
        UserError: the file or a metric is not what it must be, or an image cannot be read.
    """
    model = ExportedModel(args.exported, args.providers)
    model.CLASSES = model.description.classes
    if args.eval:
        names = {"metric": "--eval", "option": "--eval-options: "}
        check_evaluation(dataset, model, evaluation_options(cfg, args), names)
    compare_classes(model, dataset, args)
    compare_preparation(model, cfg, args)
    paths = list(images_on_disk(dataset))
    if len(paths) != len(dataset):
        raise UserError(
            "an exported detector is tested on images in files, which data.test has not"
        )
    work_dirs.make(cfg.work_dir)
    results = []
    for path in mmcv.track_iter_progress(paths):
        results.append(encode_result(model.results([read_image(path, mmcv.imfrombytes)])[0]))
    print()
    use_results(cfg, args, dataset, results)


def compare_preparation(model: ExportedModel, cfg: Config, args: argparse.Namespace) -> None:
    """Warn of a config that prepares photos otherwise than the exported detector does.

    Raises:
        UserError: the config prepares them as no exported detector can.
    """
    settings = chain.from_iterable(preparation(x).items() for x in pipelines(cfg.data.test))
    for name, value in settings:
        own = getattr(model.description, name)
        if own != value:
            warnings.warn(
                f"{args.exported} prepares photos with {name} {own}, {args.config} with {value}: "
                "the exported detector's is used",
                stacklevel=2,
            )


def compare_classes(model: nn.Module, dataset, args: argparse.Namespace) -> None:
    """Warn of a checkpoint of other classes than the config's, or in another order.

    Its labels are taken for those of the config.
    """
    trained, named = getattr(model, "CLASSES", None), dataset.CLASSES
    if not trained or not named or list(trained) == list(named) or get_dist_info()[0] != 0:
        return
    pairs = zip_longest(trained, named, fillvalue="nothing")
    label, (before, now) = next((i, pair) for i, pair in enumerate(pairs) if len(set(pair)) > 1)
    warnings.warn(
        f"class {label} of {args.checkpoint} is {before!r}, of {args.config} it is {now!r}: the "
        "config's names are used; if the order is wrong, so are all numbers",
        stacklevel=2,
    )


def build_loader(cfg: Config, split: str = "test", **more) -> Loader:
    """The loader of ``data.test`` or ``data.val``, with more of its settings."""
    settings = {"samples_per_gpu": 1, "workers_per_gpu": 2}
    settings |= {**cfg.data.get(f"{split}_dataloader", {}), **more}
    tests = cfg.data[split] if isinstance(cfg.data[split], list) else [cfg.data[split]]
    for test in tests:
        test.test_mode = True
        if settings["samples_per_gpu"] > 1:
            test.pipeline = replace_ImageToTensor(test.pipeline)
    dataset = build_data(cfg.data[split], split)
    check_image_files(dataset)
    return Loader(f"data.{split}", dataset, settings, watchdog.timeout_of(cfg))


def load_model(cfg: Config, checkpoint: str, fuse: bool) -> nn.Module:
    """The detector with the weights of a checkpoint, in eval mode."""
    cfg.model.train_cfg = None
    model = build_model(cfg)
    if cfg.get("fp16") is not None:
        wrap_fp16_model(model)
    meta = load_checkpoint(model, checkpoint).get("meta", {})
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    model.CLASSES = names if isinstance(names, (tuple, list)) else None
    model.eval()
    if fuse:
        if hasattr(model.backbone, "fuse"):
            model.backbone.fuse()
        model = fuse_conv_bn(model)
    return model


def evaluation_options(cfg: Config, args: argparse.Namespace) -> dict:
    """What ``dataset.evaluate`` gets besides the results."""
    options = {k: v for k, v in cfg.get("evaluation", {}).items() if k not in HOOK_SETTINGS}
    return {**options, "metric": args.eval, **args.eval_options}


def use_results(cfg: Config, args: argparse.Namespace, dataset, results: list) -> None:
    """Write, format and evaluate the results of all images."""
    timestamp = time.strftime("%Y%m%d_%H%M%S")
    if args.out:
        mmcv.mkdir_or_exist(os.path.dirname(os.path.abspath(args.out)))
        write_results(results, args.out)
        print(f"results: {args.out}")
    if args.format_only:
        prefix = os.path.join(cfg.work_dir, f"results_{timestamp}")
        options = {"jsonfile_prefix": prefix} if hasattr(dataset, "coco") else {}
        dataset.format_results(results, **{**options, **args.eval_options})
        print(f"formatted results: {args.eval_options.get('jsonfile_prefix', prefix)}.*")
    if args.eval:
        metric = dataset.evaluate(results, **evaluation_options(cfg, args))
        print(dict(metric))
        file = os.path.join(cfg.work_dir, f"eval_{timestamp}.json")
        mmcv.dump(dict(config=args.config, checkpoint=args.checkpoint, metric=metric), file)
        print(f"metrics: {file}")
