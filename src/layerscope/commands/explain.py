"""Explain a network: the arithmetic of every layer with its own numbers."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.files import write_json
from layerscope.base.targets import Targets, target_of
from layerscope.commands.network import (
    given_checkpoint,
    network_name,
    new_network,
    refuse_another_network,
)
from layerscope.commands.pictures import network_input, picture, read_photo_for
from layerscope.commands.runner import Job, Request
from layerscope.config.overrides import key_of
from layerscope.config.schema import ExplainConfig, TinyCNNConfig
from layerscope.dry_run import Shape
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.instance import random_image, worked_image, worked_network
from layerscope.networks import build_network
from layerscope.report.explain.report import ExplanationReport
from layerscope.report.terminal import Screen
from layerscope.training.checkpoints import RunFacts, load_weights
from layerscope.training.preprocessing import preprocessing_of
from layerscope.training.provenance import describe_environment


def check_explain(request: Request) -> Job:
    """Explain the network, and only then let anything be written.

    Raises:
        UserError: a key, the checkpoint or the image is wrong, a layer or position is not there, or
            the network does not run.
    """
    checkpoint = given_checkpoint(request)
    config = _with_checkpoint(request, checkpoint)
    _check_together(config)
    network = _network(config, checkpoint, request.targets)
    settings = replace(
        _settings(config, network_name(config.model, network)),
        class_names=_class_names(checkpoint),
    )
    explanation = explain_network(network, settings, _image(config, checkpoint), config.analysis)
    if config.image is not None:
        assert checkpoint is not None, "an image needs a checkpoint"
        (pixels,) = read_photo_for(checkpoint, Path(config.image))
        explanation = replace(explanation, picture=picture(pixels))
    return partial(_save, ExplanationReport(explanation), request.overrides)


def _settings(config: ExplainConfig, network: str) -> ExplainSettings:
    return ExplainSettings(
        network=network,
        input_shape=_input_shape(config),
        dtype=config.dtype,
        train=config.ckpt_path is None if config.train is None else config.train,
        layer=config.layer,
        position=config.position,
        input_position=config.input_position,
        weight_position=config.weight_position,
        loss=config.loss,
        target=config.target,
        learning_rate=config.learning_rate,
        origin=_origin(config),
    )


def _input_shape(config: ExplainConfig) -> Shape:
    return (config.batch_size, *config.model.input_shape)


def _origin(config: ExplainConfig) -> tuple[tuple[str, str], ...]:
    """Tell where weights and image come from."""
    random, example = f"random, seed {config.seed}", "of the worked example"
    if config.instance == "seed":
        rest = f"{example}; those that it leaves open fit its other numbers, seed {config.seed}"
        return (("weights", rest), ("image", example))
    weights = random if config.ckpt_path is None else f"of the checkpoint {config.ckpt_path}"
    return (("weights", weights), ("image", config.image or random))


def _class_names(checkpoint: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the names of the classes that the checkpoint's network was trained on."""
    if checkpoint is None:
        return ()
    return preprocessing_of(checkpoint).view.class_names


def _with_checkpoint(request: Request, checkpoint: dict[str, Any] | None) -> ExplainConfig:
    """Return the configuration; network and loss are the checkpoint's where there is one."""
    if checkpoint is None:
        return request.config
    refuse_another_network(request.overrides)
    trained = RunFacts.of(checkpoint).parsed_config()
    names_loss = any(key_of(override).split(".")[0] == "loss" for override in request.overrides)
    of_checkpoint = {"model": trained.model, **({} if names_loss else {"loss": trained.loss})}
    return request.config.model_copy(update=of_checkpoint)


def _check_together(config: ExplainConfig) -> None:
    """Refuse keys that exclude or need one another."""
    if config.image is not None and config.ckpt_path is None:
        raise UserError(
            f"image={config.image}: how a picture is scaled stands in a checkpoint, give ckpt_path"
        )
    if config.image is not None and config.batch_size != 1:
        raise UserError(f"batch_size={config.batch_size}: image is one picture, leave it out")
    if config.instance == "seed":
        _check_worked_example(config)


def _check_worked_example(config: ExplainConfig) -> None:
    if config.ckpt_path is not None:
        raise UserError("instance=seed has weights of its own: leave out ckpt_path")
    if config.batch_size != 1:
        raise UserError(f"batch_size={config.batch_size}: instance=seed is one image, leave it out")
    is_default = isinstance(config.model, TinyCNNConfig) and (
        config.model.input_shape == (1, 8, 8)
        and config.model.num_classes == 2
        and config.model.channels == (2, 4, 2)
        and (config.model.kernel_size, config.model.head_kernel_size) == (3, 2)
        and config.model.width == 1
    )
    if not is_default:
        raise UserError(
            "instance=seed is an example of tiny_cnn as it is: give model=tiny_cnn only"
        )


def _network(
    config: ExplainConfig, checkpoint: dict[str, Any] | None, targets: Targets
) -> nn.Module:
    if config.instance == "seed":
        return worked_network(config.seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        if checkpoint is None:
            return new_network(config.model, targets)
        network = build_network(config.model, target_of(targets))
    load_weights(network, checkpoint)
    return network


def _image(config: ExplainConfig, checkpoint: dict[str, Any] | None) -> Tensor:
    if config.instance == "seed":
        return worked_image()
    if config.image is not None and checkpoint is not None:
        return network_input(checkpoint, read_photo_for(checkpoint, Path(config.image)))
    return random_image(_input_shape(config), config.seed)


def _save(report: ExplanationReport, overrides: tuple[str, ...], directory: Path) -> None:
    """Write every file and print the table of values."""
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    paths = report.save(directory)
    report.show(screen)
    screen.say(f"written: {', '.join(path.name for path in paths)}")
    screen.say(f"all files: {directory}")
