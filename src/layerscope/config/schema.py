"""The schema of a training configuration: every key, its type and its range.

Defaults stand in configs/*.yaml and nowhere else, so every key is required here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from layerscope.base.errors import UserError

# Upper bounds are beyond what anyone means; they keep a slip, or a stranger's file, from asking for
# all memory, or for numbers that torch cannot hold.
Count = Annotated[int, Field(ge=1, lt=2**31)]
Size = Annotated[int, Field(ge=1, le=16_384)]  # of an image, in pixels or channels
Channels = Annotated[int, Field(ge=1, le=65_536)]
KernelSize = Annotated[int, Field(ge=1, le=1023)]
Images = Annotated[int, Field(ge=1, le=200_000)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Width = Annotated[float, Field(gt=0, le=64)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _is_printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be printable text")
    return name


# Of a class, as reports show it.
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_printable)]


def local_path(path: str) -> str:
    """A ValueError where it is none."""
    if not path.strip() or "\0" in path:
        raise ValueError("names no file, give its path")
    if "://" in path:
        raise ValueError("only local files are opened, download it first")
    return path


LocalPath = Annotated[str, AfterValidator(local_path)]


def _is_a_limit(limit: int | float) -> int | float:
    share = isinstance(limit, float)
    if not (0 < limit <= 1 if share else limit >= 1):
        raise ValueError(
            "must be a number of batches (1, 2, ...) or a share of them (above 0, to 1.0)"
        )
    return limit


# How much of a loader is used.
Limit = Annotated[int | float, AfterValidator(_is_a_limit)]


class Section(BaseModel):
    """Part of a configuration: frozen, no unknown keys, no conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


class NetworkBase(Section):
    """Keys that every network has."""

    input_shape: tuple[Size, Size, Size]  # (C, H, W) of one image
    num_classes: Channels


class OwnNetworkBase(NetworkBase):
    """Keys of the networks that this project defines."""

    channels: tuple[Channels, ...]
    kernel_size: KernelSize
    width: Width

    @field_validator("kernel_size")
    @classmethod
    def _keeps_the_size(cls, kernel_size: int) -> int:
        if kernel_size % 2 == 0:
            raise ValueError("must be odd, so that the convolution keeps the size of the image")
        return kernel_size


class CifarCNNConfig(OwnNetworkBase):
    """networks/cifar_cnn.py."""

    family: Literal["cifar_cnn"]
    channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=14)]


class TinyCNNConfig(OwnNetworkBase):
    """networks/tiny_cnn.py."""

    family: Literal["tiny_cnn"]
    channels: tuple[Channels, Channels, Channels]
    head_kernel_size: KernelSize


class SimpleCNNConfig(OwnNetworkBase):
    """networks/simple_cnn.py."""

    family: Literal["simple_cnn"]
    channels: tuple[Channels]


class PatternConfig(NetworkBase):
    """networks/pattern.py; null for a key of the template means: as in its example."""

    family: Literal["pattern"]
    pattern: Annotated[str, Field(min_length=1)] | None
    M: Annotated[int, Field(ge=0)] | None
    N: Count | None
    K: Annotated[int, Field(ge=0)] | None
    pool: bool | None
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] | None
    kernel_size: Count
    stride: Count
    padding: Annotated[int, Field(ge=0)] | None
    hidden_units: Count | tuple[Count, ...]
    batch_norm: bool
    width: Width


class TorchvisionConfig(NetworkBase):
    """A torchvision classifier with random weights."""

    family: Literal["torchvision"]
    name: str


class CustomConfig(NetworkBase):
    """A user's own class; keys that are not listed here are passed to it, and so are `num_classes`
    and `input_shape` where it has parameters of these names."""

    model_config = ConfigDict(extra="allow")

    family: Literal["custom"]
    target: Annotated[str, Field(alias="_target_")]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the user's class is called with."""
        return dict(self.model_extra or {})


NetworkConfig = Annotated[
    CifarCNNConfig
    | TinyCNNConfig
    | SimpleCNNConfig
    | PatternConfig
    | TorchvisionConfig
    | CustomConfig,
    Field(discriminator="family"),
]


class DataBase(Section):
    """Keys that every data set has; null for a view means: what the network needs."""

    batch_size: Count  # the global batch, over all ranks
    drop_last: bool
    image_size: Size | None
    grayscale: bool | None
    groups: dict[Name, tuple[str, ...]] | None
    crop_padding: Annotated[int, Field(ge=0, le=16_384)] | None
    flip: Literal["alternate", "random", "none"]
    loader: Literal["device", "workers"]
    num_workers: Annotated[int, Field(ge=0, le=1024)]


class Cifar10Config(DataBase):
    """The verified CIFAR-10."""

    name: Literal["cifar10"]
    dir: LocalPath | None
    val_size: Count


class SyntheticConfig(DataBase):
    """A made-up set of the same shape."""

    name: Literal["synthetic"]
    num_train: Images
    num_val: Images
    num_test: Images


DataConfig = Annotated[Cifar10Config | SyntheticConfig, Field(discriminator="name")]


class SGDConfig(Section):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    lr: Positive
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("needs a momentum above 0: set optimizer.momentum, or this to false")
        return nesterov


class AdamConfig(Section):
    """torch.optim.Adam or AdamW."""

    name: Literal["adam", "adamw"]
    lr: Positive
    betas: tuple[Fraction, Fraction]
    eps: Positive
    weight_decay: NonNegative


class MuonConfig(Section):
    """training/optimizers.py: convolutions by Muon, everything else by SGD."""

    name: Literal["muon"]
    lr: Positive
    momentum: Fraction
    weight_decay: NonNegative
    newton_schulz_steps: Annotated[int, Field(ge=1, le=100)]
    sgd_lr: Positive
    sgd_momentum: Fraction
    sgd_weight_decay: NonNegative


OptimizerConfig = Annotated[SGDConfig | AdamConfig | MuonConfig, Field(discriminator="name")]


class ConstantConfig(Section):
    """The learning rate as it is."""

    name: Literal["constant"]


class WarmupConfig(Section):
    """Up over a share of the steps, then down to a share of the learning rate."""

    name: Literal["linear", "cosine"]
    warmup: Fraction
    final: Fraction


class StepsConfig(Section):
    """Times `factor` at each milestone, a share of all steps."""

    name: Literal["milestones"]
    milestones: tuple[Fraction, ...]
    factor: Annotated[float, Field(gt=0, le=1)]


SchedulerConfig = Annotated[
    ConstantConfig | WarmupConfig | StepsConfig, Field(discriminator="name")
]


class CrossEntropyConfig(Section):
    """Cross-entropy of the logits."""

    name: Literal["cross_entropy"]
    label_smoothing: Fraction


class MSEConfig(Section):
    """Mean squared error of the outputs against the one-hot label."""

    name: Literal["mse"]


LossConfig = Annotated[CrossEntropyConfig | MSEConfig, Field(discriminator="name")]


class TrainerConfig(Section):
    """Where and how long."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count | Literal["auto"]
    strategy: Literal["auto", "ddp", "ddp_spawn"]
    max_epochs: Count
    precision: Literal["32-true", "bf16-mixed", "auto"]
    channels_last: bool
    gradient_clip_norm: Positive | None
    accumulate_grad_batches: Count
    limit_train_batches: Limit
    limit_val_batches: Limit
    limit_test_batches: Limit
    profiler: Literal["simple", "pytorch"] | None
    deterministic: bool
    threads: Annotated[int, Field(ge=1, le=1024)] | None


class EarlyStoppingConfig(Section):
    """Stop when the monitored value has not improved for `patience` epochs; null: never."""

    monitor: Literal["val/acc", "val/loss"]
    patience: Count | None
    min_delta: NonNegative


class ActivationMemoryConfig(Section):
    """Record the first full step and every n-th; null: the first only."""

    every_n_steps: Count | None


class CallbacksConfig(Section):
    """What happens beside training."""

    early_stopping: EarlyStoppingConfig
    activation_memory: ActivationMemoryConfig


class LoggerConfig(Section):
    """An experiment tracker beside metrics.csv, which is always written."""

    name: Literal["csv", "tensorboard", "wandb", "mlflow"]


class TrainConfig(Section):
    """A whole training run."""

    model: NetworkConfig
    data: DataConfig
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    loss: LossConfig
    trainer: TrainerConfig
    callbacks: CallbacksConfig
    logger: LoggerConfig
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    ckpt_path: LocalPath | None
    resume: Literal["auto"] | None
    allow_changes: bool
    checkpoint_every_n_steps: Count | None
    profile: bool | Literal["auto"]


class PreprocessingFacts(Section):
    """What a checkpoint says about the way from a photo to its network."""

    image_size: Size
    grayscale: bool
    groups: dict[
        Name, Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(min_length=1)]
    ]
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...]  # shares of white, as a run has them
    std: tuple[Annotated[float, Field(ge=1e-9, le=1)], ...]

    @field_validator("mean", "std")
    @classmethod
    def _has_every_channel(cls, values: tuple[float, ...], info: ValidationInfo) -> Any:
        if len(values) != (1 if info.data.get("grayscale") else 3):
            raise ValueError("must have a number for each channel")
        return values


QUOTE = "'"  # around names in pydantic's messages
GROUPS_WITH_VARIANTS = ("model", "data", "optimizer", "scheduler", "loss")


def parse_train_config(values: dict[str, Any]) -> TrainConfig:
    """A UserError names the first key that is wrong."""
    try:
        return TrainConfig.model_validate(frozen(values))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error


def frozen(value: Any) -> Any:
    """Lists to tuples, all the way down: YAML has no tuples and a frozen section holds no lists."""
    if isinstance(value, dict):
        return {key: frozen(member) for key, member in value.items()}
    if isinstance(value, list):
        return tuple(frozen(member) for member in value)
    return value


def first_problem(error: ValidationError) -> str:
    """One line: key, value given, what is allowed, and how many more there are."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    key = _key(problem["loc"])
    line = f"{key}={as_typed(problem['input'])}: {_in_words(problem['msg'])}"
    if problem["type"] == "missing":
        line = f"{key} is missing: give it"
    elif problem["type"] == "extra_forbidden":
        line = f"{key} is not a key: remove it or correct its name"
    elif problem["type"].startswith("union_tag_"):
        line = _unknown_variant(key, problem["type"], problem.get("ctx", {}))
    more = len({_key(other["loc"]) for other in problems} - {key})
    return line + (f" (and {more} more)" if more else "")


def as_typed(value: object) -> str:
    """As a user writes it on the command line; the beginning of what is long."""
    text = _as_typed(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _as_typed(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_as_typed(member)}' for key, member in value.items())}}}"
    return str(value)


def _unknown_variant(key: str, problem: str, context: Mapping[str, Any]) -> str:
    """Of a section that says itself which one it is."""
    name = f"{key}.{context['discriminator'].strip(QUOTE)}"
    if problem == "union_tag_not_found":
        return f"{name} is missing: give it"
    expected = context["expected_tags"].replace(QUOTE, "")
    return f"{name}={as_typed(context['tag'])}: choose one of {expected}"


def _key(location: tuple[int | str, ...]) -> str:
    """The key as a user writes it: without the variant's name and the type of a union."""
    parts = list(location)
    if len(parts) > 2 and parts[0] in GROUPS_WITH_VARIANTS:
        del parts[1]
    return ".".join(str(part) for part in parts if not _names_a_type(part))


def _names_a_type(part: int | str) -> bool:
    return isinstance(part, str) and (
        part in ("int", "float", "bool", "constrained-int") or "[" in part
    )


def _in_words(text: str) -> str:
    """pydantic's message, as far as a user can follow it."""
    text = text.removeprefix("Value error, ").partition(" or instance of ")[0]
    text = text.replace("tuple", "list").replace("a valid dictionary", "keys and values")
    return text[:1].lower() + text[1:].replace(" after validation", "")
