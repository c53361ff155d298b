"""scripts/explain.py: from a configuration to a saved explanation."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.files import write_json
from layerscope.commands.photo import photo, picture
from layerscope.commands.profile import network_name, refuse_another_network, refuse_groups
from layerscope.commands.runner import Job, Request
from layerscope.config.choice import Choice
from layerscope.config.compose import key_of, path_value
from layerscope.config.schema import (
    Count,
    LocalPath,
    LossConfig,
    NetworkConfig,
    TinyCNNConfig,
    first_problem,
    frozen,
)
from layerscope.dry_run import Shape
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import Settings
from layerscope.explain.instance import random_image, worked_image, worked_network
from layerscope.networks import build_network
from layerscope.report.explain.report import ExplanationReport
from layerscope.report.terminal import Screen
from layerscope.training.checkpoints import RunFacts, load_weights, read_checkpoint
from layerscope.training.provenance import describe_environment

# Groups that come with a network's recipe and say nothing about an explanation.
_RECIPE = ("optimizer", "trainer")
_NOT_OURS = (*_RECIPE, "paths")


class ExplainConfig(Choice):
    """A whole explanation."""

    model: NetworkConfig
    loss: LossConfig
    ckpt_path: LocalPath | None
    image: LocalPath | None
    instance: Literal["random", "seed"]
    batch_size: Count
    dtype: Literal["float32", "float64", "bfloat16"]
    train: bool | None
    analysis: bool

    @property
    def input_shape(self) -> Shape:
        """With the batch."""
        return (self.batch_size, *self.model.input_shape)

    @property
    def origin(self) -> tuple[tuple[str, str], ...]:
        """Where weights and image come from."""
        random, example = f"random, seed {self.seed}", "of the worked example"
        if self.instance == "seed":
            rest = f"{example}; those that it leaves open fit its other numbers, seed {self.seed}"
            return (("weights", rest), ("image", example))
        weights = random if self.ckpt_path is None else f"of the checkpoint {self.ckpt_path}"
        return (("weights", weights), ("image", self.image or random))

    def settings(self, name: str) -> Settings:
        """What the engine needs of it."""
        return Settings(
            network=name,
            input_shape=self.input_shape,
            dtype=self.dtype,
            train=self.ckpt_path is None if self.train is None else self.train,
            layer=self.layer,
            position=self.position,
            input_position=self.input_position,
            weight_position=self.weight_position,
            loss=self.loss,
            target=self.target,
            learning_rate=self.learning_rate,
            origin=self.origin,
        )


def check_explain(request: Request) -> Job:
    """Explain the network, and only then let anything be written.

    Raises:
        UserError: a key, the checkpoint or the image is wrong, a layer or position is not there, or
            the network does not run.
    """
    given = request.values["ckpt_path"] is not None
    checkpoint = read_checkpoint(path_value(request.values, "ckpt_path")) if given else None
    config = _parsed(request, checkpoint)
    _check_together(config)
    network = _network(config, checkpoint, request.typed("model._target_"))
    settings = replace(
        config.settings(network_name(config.model, network)), class_names=_class_names(checkpoint)
    )
    explanation = explain_network(network, settings, _image(config, checkpoint), config.analysis)
    if config.image is not None:
        explanation = replace(explanation, picture=picture(config.image))
    return partial(_save, ExplanationReport(explanation), request.overrides)


def _class_names(checkpoint: dict[str, Any] | None) -> tuple[str, ...]:
    """Of the data that the checkpoint's network was trained on."""
    if checkpoint is None:
        return ()
    from layerscope.training.seen import preprocessing_of  # imports Lightning

    return preprocessing_of(checkpoint).view.class_names


def _parsed(request: Request, checkpoint: dict[str, Any] | None) -> ExplainConfig:
    """The command's own keys; network and loss are the checkpoint's where there is one."""
    refuse_groups(request.overrides, _RECIPE, "an explanation, whose steps have learning_rate")
    values = {key: value for key, value in request.values.items() if key not in _NOT_OURS}
    if checkpoint is not None:
        refuse_another_network(request.overrides)
        trained = RunFacts.of(checkpoint).config
        values["model"] = trained["model"]
        if not any(key_of(override).split(".")[0] == "loss" for override in request.overrides):
            values["loss"] = trained["loss"]
    try:
        return ExplainConfig.model_validate(frozen(values))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error


def _check_together(config: ExplainConfig) -> None:
    """Keys that exclude or need one another."""
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
    config: ExplainConfig, checkpoint: dict[str, Any] | None, target: str | None
) -> nn.Module:
    if config.instance == "seed":
        return worked_network(config.seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        network = build_network(config.model, target)
    if checkpoint is not None:
        load_weights(network, checkpoint)
    return network


def _image(config: ExplainConfig, checkpoint: dict[str, Any] | None) -> Tensor:
    if config.instance == "seed":
        return worked_image()
    if config.image is not None and checkpoint is not None:
        return photo(config.image, checkpoint)
    return random_image(config.input_shape, config.seed)


def _save(report: ExplanationReport, overrides: tuple[str, ...], directory: Path) -> None:
    """Write every file and print the table of values."""
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    paths = report.save(directory)
    report.show(screen)
    screen.say(f"written: {', '.join(path.name for path in paths)}")
    screen.say(f"all files: {directory}")
