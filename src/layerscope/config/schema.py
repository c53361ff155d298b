"""The schema of each command's configuration: every key, its type, its range and what it means.

Defaults stand in configs/*.yaml and nowhere else, so every key is required here. A key's sentence
is its description: `--help` prints it, and so does docs/reference.md.
"""

import os
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from layerscope.base.optional import is_installed

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


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Index = Annotated[int, Field(ge=0)]
Place = Annotated[tuple[Index, ...], Field(min_length=1)] | None  # of a value in a tensor
# Of a class, as reports show it.
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_is_printable)]


def local_path(path: Any) -> str:
    """Return the path with `~` replaced by the home directory.

    Raises:
        ValueError: it names no local file.
    """
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise ValueError("names no file, give its path")
    if "://" in path:
        raise ValueError("only local files are opened, download it first")
    return os.path.expanduser(path)


# Of an experiment or a run in a tracker.
TrackerName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_is_printable)]
LocalPath = Annotated[str, BeforeValidator(local_path)]


def _without_password(uri: str) -> str:
    """Refuse an address with a password, which the run's config.yaml would keep."""
    if re.search(r"//[^/@]*:[^/@]*@", uri):
        raise ValueError("holds a password, set MLFLOW_TRACKING_URI to it instead")
    return uri


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _layer_name(value: Any) -> Any:
    """Take the number of a layer of an `nn.Sequential` for its name, as typed."""
    if isinstance(value, float):  # "2.10" would be 2.1
        raise ValueError(
            f"a name of digits and points needs two kinds of quotes, \"layer='{value}'\""
        )
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


LayerName = Annotated[str, BeforeValidator(_layer_name)]
_T = TypeVar("_T")
OneOrSeveral = Annotated[tuple[_T, ...], BeforeValidator(_several)]  # a single text, or a list


def _is_a_limit(limit: int | float) -> int | float:
    share = isinstance(limit, float)
    if not (0 < limit <= 1 if share else limit >= 1):
        raise ValueError("must be a number (1, 2, ...), or a share above 0 and at most 1.0")
    return limit


# How much of a loader is used.
Limit = Annotated[int | float, AfterValidator(_is_a_limit)]


class Section(BaseModel):
    """Part of a configuration: frozen, no unknown keys, no conversion of types."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


class OwnClass(Section):
    """A class of the user's own; keys that are not listed here are passed to it."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the user's class is called with."""
        return dict(self.model_extra or {})


class NetworkBase(Section):
    """Keys that every network has."""

    input_shape: tuple[Size, Size, Size] = Field(description="Shape of one image, [C,H,W].")
    num_classes: Channels = Field(description="Number of classes, which is the number of outputs.")


class OwnNetworkBase(NetworkBase):
    """Keys of the networks that this project defines."""

    channels: tuple[Channels, ...] = Field(
        description="Output channels of each convolution, before the multiplier `width`."
    )
    kernel_size: KernelSize = Field(description="Size of the square kernels, an odd number.")
    width: Width = Field(description="Multiplier of the channels.")

    @field_validator("kernel_size")
    @classmethod
    def _keeps_the_size(cls, kernel_size: int) -> int:
        if kernel_size % 2 == 0:
            raise ValueError("must be odd, so that the convolution keeps the size of the image")
        return kernel_size


class CifarCNNConfig(OwnNetworkBase):
    """networks/cifar_cnn.py."""

    family: Literal["cifar_cnn"]
    channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=14)] = Field(
        description="Output channels of each block, before the multiplier `width`."
    )


class TinyCNNConfig(OwnNetworkBase):
    """networks/tiny_cnn.py."""

    family: Literal["tiny_cnn"]
    channels: tuple[Channels, Channels, Channels] = Field(
        description=(
            "Output channels of the convolutions but the last, before the multiplier `width`."
        )
    )
    head_kernel_size: KernelSize = Field(
        description="Size of the last convolution's square kernel, which covers the whole map."
    )


class SimpleCNNConfig(OwnNetworkBase):
    """networks/simple_cnn.py."""

    family: Literal["simple_cnn"]
    channels: tuple[Channels] = Field(
        description="Output channels of the one convolution, before the multiplier `width`."
    )


class PatternConfig(NetworkBase):
    """networks/pattern.py; null for a key of the template takes the value of its example."""

    family: Literal["pattern"]
    pattern: Annotated[str, Field(min_length=1)] | None = Field(
        description=(
            "The network as it is written, 'Input → (Conv → ReLU → Pool) × 2 → FC → ReLU → FC'; "
            "null: the template of M, N, K and pool. See docs/patterns.md."
        )
    )
    M: Annotated[int, Field(ge=0)] | None = Field(description="Blocks of the template; null: 2.")
    N: Count | None = Field(description="Convolutions in a block of the template; null: 1.")
    K: Annotated[int, Field(ge=0)] | None = Field(
        description="Hidden FC layers of the template; null: 1."
    )
    pool: bool | None = Field(
        description="End each block of the template with a pooling layer; null: true."
    )
    channels: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        description=(
            "Output channels of each block, or of each convolution; null: 16, doubled from block "
            "to block."
        )
    )
    kernel_size: Count = Field(
        description="Size of the square kernels where the pattern names none."
    )
    stride: Count = Field(description="Stride of the convolutions where the pattern names none.")
    padding: Annotated[int, Field(ge=0)] | None = Field(
        description=(
            "Padding of the convolutions where the pattern names none; null: as much as keeps the "
            "size."
        )
    )
    hidden_units: Count | tuple[Count, ...] = Field(
        description="Units of every hidden FC layer, or a list with one number for each."
    )
    batch_norm: bool = Field(description="Put a batch norm behind every convolution.")
    width: Width = Field(description="Multiplier of the channels.")


class TorchvisionConfig(NetworkBase):
    """A torchvision classifier, with random weights or those of a file."""

    family: Literal["torchvision"]
    name: str = Field(description="torchvision's name of a classifier, such as resnet18.")
    weights: LocalPath | None = Field(
        description=(
            "File of weights to begin with, a state_dict such as torchvision's resnet18-f37072fd"
            ".pth; a last layer of another number of classes stays random. Null: random weights."
        )
    )


class CustomConfig(NetworkBase, OwnClass):
    """A user's own network; `num_classes` and `input_shape` are passed to it where it has
    parameters of these names."""

    family: Literal["custom"]
    target: str = Field(
        alias="_target_",
        description=(
            "Your own class, module.Class, given on the command line only; further keys "
            "(+model.hidden=64) are passed to it, and num_classes and input_shape where it has "
            "parameters of these names."
        ),
    )


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
    """Keys that every data set has."""

    batch_size: Count = Field(description="Images in a batch, over all processes.")
    drop_last: bool = Field(description="Drop the last short training batch.")
    image_size: Size | None = Field(
        description="Height and width that the images are scaled to; null: what the network needs."
    )
    grayscale: bool | None = Field(
        description="Make the images gray; null: what the network needs."
    )
    groups: dict[Name, tuple[str, ...]] | None = Field(
        description=(
            "Classes put together under new names, {pets: [cat,dog], wild: [deer,frog]}, the "
            "others left out; null: what the network needs."
        )
    )
    crop_padding: Annotated[int, Field(ge=0, le=16_384)] | None = Field(
        description=(
            "Pixels of reflected padding before a random crop of the training images; null: a 16th "
            "of the image's size."
        )
    )
    flip: Literal["alternate", "random", "none"] = Field(
        description=(
            "Horizontal flips of the training images: alternate (random at first, then every other "
            "epoch), random or none."
        )
    )
    loader: Literal["device", "workers"] = Field(
        description=(
            "device: the whole set as uint8 on the training device; workers: a DataLoader with "
            "torchvision's transforms, for what does not fit."
        )
    )
    num_workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        description="Processes of the DataLoader."
    )


class Cifar10Config(DataBase):
    """The verified CIFAR-10."""

    name: Literal["cifar10"]
    dir: LocalPath | None = Field(
        description=(
            "Directory of the verified arrays; null: LAYERSCOPE_DATA_DIR, else your cache folder."
        )
    )
    val_size: Count = Field(
        description=(
            "Validation images out of the 50,000 training images, the same number of each class "
            "and the same images for every seed."
        )
    )


class SyntheticConfig(DataBase):
    """A made-up set of the same shape."""

    name: Literal["synthetic"]
    num_train: Images = Field(description="Images to train on, at most 200,000.")
    num_val: Images = Field(description="Images to validate on, at most 200,000.")
    num_test: Images = Field(description="Images to test on, at most 200,000.")


class Cifar100Config(DataBase):
    """CIFAR-100, from the published archive."""

    name: Literal["cifar100"]
    dir: LocalPath | None = Field(
        description=(
            "Directory of cifar-100-python.tar.gz, whose decoded arrays are kept in its folder "
            "cifar100; null: LAYERSCOPE_DATA_DIR, else your cache folder."
        )
    )
    labels: Literal["fine", "coarse"] = Field(
        description="fine: the 100 classes; coarse: the 20 superclasses."
    )
    val_size: Count = Field(
        description=(
            "Validation images out of the 50,000 training images, the same share of each class and "
            "the same images for every seed."
        )
    )


class ImageFolderConfig(DataBase):
    """Pictures in a folder for each class."""

    name: Literal["imagefolder"]
    dir: LocalPath = Field(
        description=(
            "Folder with a folder of pictures for each class, or with train, val and test, each "
            "with the folders of the classes."
        )
    )
    val_size: Limit = Field(
        description=(
            "Validation pictures where there is no folder val: a number (int) or a share (float) "
            "of the training pictures, the same for every seed."
        )
    )
    test_size: Limit = Field(
        description=(
            "Test pictures where there is no folder test: a number (int) or a share (float) of all "
            "training pictures, the same for every seed; 1.0: all, for an evaluation."
        )
    )
    cache: LocalPath | None = Field(
        description=(
            "Directory of the decoded pictures, which may be removed at any time; null: the folder "
            "imagefolder of LAYERSCOPE_DATA_DIR, else of your cache folder."
        )
    )


class CustomDataConfig(DataBase, OwnClass):
    """A user's own dataset class; it is called with the split too."""

    name: Literal["custom"]
    target: str = Field(
        alias="_target_",
        description=(
            "Your own dataset, module.Class, given on the command line only. It is called with "
            "split (train, val or test), further keys (+data.root=photos), and image_size where it "
            "has such a parameter."
        ),
    )


DataConfig = Annotated[
    Cifar10Config | Cifar100Config | SyntheticConfig | ImageFolderConfig | CustomDataConfig,
    Field(discriminator="name"),
]


class SGDConfig(Section):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    lr: Positive = Field(description="Learning rate at its highest.")
    momentum: Fraction = Field(description="Momentum; 0: none.")
    nesterov: bool = Field(description="Use Nesterov's momentum.")
    weight_decay: NonNegative = Field(description="Weight decay.")

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("needs a momentum above 0: set optimizer.momentum, or this to false")
        return nesterov


class AdamConfig(Section):
    """torch.optim.Adam or AdamW."""

    name: Literal["adam", "adamw"]
    lr: Positive = Field(description="Learning rate at its highest.")
    betas: tuple[Fraction, Fraction] = Field(
        description="Decay rates of the running means of the gradient and of its square."
    )
    eps: Positive = Field(description="Summand in the denominator, against division by 0.")
    weight_decay: NonNegative = Field(
        description="Weight decay, which adamw keeps out of the gradient."
    )


class MuonConfig(Section):
    """training/optimizers.py: convolutions by Muon, everything else by SGD."""

    name: Literal["muon"]
    lr: Positive = Field(description="Learning rate of the convolutions' weights at its highest.")
    momentum: Fraction = Field(description="Momentum of the convolutions' weights.")
    weight_decay: NonNegative = Field(description="Weight decay of the convolutions' weights.")
    newton_schulz_steps: Annotated[int, Field(ge=1, le=100)] = Field(
        description="Steps of the iteration that orthogonalizes an update."
    )
    sgd_lr: Positive = Field(
        description="Learning rate of all other parameters, which SGD updates."
    )
    sgd_momentum: Fraction = Field(description="Nesterov momentum of all other parameters.")
    sgd_weight_decay: NonNegative = Field(description="Weight decay of all other parameters.")


class CustomOptimizerConfig(OwnClass):
    """A user's own class of torch.optim.Optimizer."""

    name: Literal["custom"]
    target: str = Field(
        alias="_target_",
        description=(
            "Your own class, or one of torch's, torch.optim.RMSprop, given on the command line "
            "only; it is called with the parameters, and further keys (+optimizer.alpha=0.9) are "
            "passed to it."
        ),
    )
    lr: Positive | None = Field(
        description="Learning rate at its highest; null: the class's own default."
    )


OptimizerConfig = Annotated[
    SGDConfig | AdamConfig | MuonConfig | CustomOptimizerConfig, Field(discriminator="name")
]


class ConstantConfig(Section):
    """The learning rate as it is."""

    name: Literal["constant"]


class WarmupConfig(Section):
    """A rise over a share of the steps, then a fall to a share of the learning rate."""

    name: Literal["linear", "cosine"]
    warmup: Fraction = Field(description="Share of all steps in which the learning rate rises.")
    final: Fraction = Field(description="Share of the learning rate that is left at the end.")


class StepsConfig(Section):
    """A factor at each milestone."""

    name: Literal["milestones"]
    milestones: tuple[Fraction, ...] = Field(
        description="Shares of all steps after which the learning rate is multiplied by `factor`."
    )
    factor: Annotated[float, Field(gt=0, le=1)] = Field(
        description="What the learning rate is multiplied by at each milestone."
    )


class CustomSchedulerConfig(OwnClass):
    """A class of torch.optim.lr_scheduler, or a user's own function."""

    name: Literal["custom"]
    target: str = Field(
        alias="_target_",
        description=(
            "A class of torch.optim.lr_scheduler, your own of its kind, or a function f(step, "
            "num_steps) of the share of the learning rate, given on the command line only; "
            "further keys (+scheduler.step_size=10) are passed to it."
        ),
    )
    interval: Literal["epoch", "step"] | None = Field(
        description=(
            "What it counts, epochs or steps of the optimizer; null: epochs for a class, as in "
            "torch's examples, and steps for a function."
        )
    )


SchedulerConfig = Annotated[
    ConstantConfig | WarmupConfig | StepsConfig | CustomSchedulerConfig,
    Field(discriminator="name"),
]


class CrossEntropyConfig(Section):
    """Cross-entropy of the logits."""

    name: Literal["cross_entropy"]
    label_smoothing: Fraction = Field(
        description="Share of the label that is spread over all classes."
    )


class MSEConfig(Section):
    """Mean squared error of the outputs against the one-hot label."""

    name: Literal["mse"]


LossConfig = Annotated[CrossEntropyConfig | MSEConfig, Field(discriminator="name")]


class TrainerConfig(Section):
    """Device, precision and length of a training."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        description="Where the run trains: cpu, gpu, or auto, which takes a GPU if there is one."
    )
    devices: Count | Literal["auto"] = Field(
        description=(
            "Number of processes, each with a device of its own; auto: as many as there are GPUs, "
            "one on a CPU."
        )
    )
    strategy: Literal["auto", "ddp", "ddp_spawn"] = Field(
        description=(
            "How several processes are started: ddp runs the script again, ddp_spawn does not and "
            "can sweep."
        )
    )
    max_epochs: Count = Field(description="Passes over the training images.")
    precision: Literal["32-true", "bf16-mixed", "auto"] = Field(
        description=(
            "32-true, bf16-mixed, or auto: bf16-mixed where the hardware has bf16 instructions; "
            "config.yaml says which it was."
        )
    )
    channels_last: bool = Field(
        description="Lay weights and images out in memory with their channels last."
    )
    gradient_clip_norm: Positive | None = Field(
        description="Largest norm of the gradient, a longer one is shortened to it; null: no limit."
    )
    accumulate_grad_batches: Count = Field(
        description="Batches whose gradients are added up for one step of the optimizer."
    )
    limit_train_batches: Limit = Field(
        description="Training batches in an epoch, a number (int) or a share of them (float)."
    )
    limit_val_batches: Limit = Field(
        description="Validation batches, a number (int) or a share of them (float)."
    )
    limit_test_batches: Limit = Field(
        description="Test batches, a number (int) or a share of them (float)."
    )
    profiler: Literal["simple", "pytorch"] | None = Field(
        description=(
            "Lightning's profiler, simple or pytorch, whose file goes into the run's directory; "
            "null: none."
        )
    )
    deterministic: bool = Field(description="Use deterministic algorithms only.")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        description="Threads of torch's operations on the CPU; null: torch's own choice."
    )


class EarlyStoppingConfig(Section):
    """An end of the run when the monitored value no longer improves."""

    monitor: Literal["val/acc", "val/loss"] = Field(
        description="Value that has to improve, val/acc or val/loss."
    )
    patience: Count | None = Field(
        description="Epochs without improvement after which the run stops; null: never."
    )
    min_delta: NonNegative = Field(description="Smallest change that counts as an improvement.")


class ActivationMemoryConfig(Section):
    """The steps whose activation memory is recorded."""

    every_n_steps: Count | None = Field(
        description="Record the first full step and every n-th; null: the first one only."
    )


class OwnCallback(OwnClass):
    """A callback of the user's own."""


class CallbacksConfig(Section):
    """What happens beside training."""

    early_stopping: EarlyStoppingConfig = Field(description="When a run stops early.")
    activation_memory: ActivationMemoryConfig = Field(
        description="When activation memory is recorded."
    )
    extra: tuple[OwnCallback, ...] = Field(
        description=(
            "Lightning callbacks of your own, [{_target_: mycb.Hello, every: 3}], given on the "
            "command line only; further keys are passed to them."
        )
    )


class OwnMetric(OwnClass):
    """A torchmetrics metric; its name is the class's where none is given."""

    # An entry of a list has no default in configs/.
    name: Annotated[str, Field(max_length=50)] | None = None

    @property
    def column(self) -> str:
        """Its name in files, behind val/ and test/."""
        return self.name or self.target.rpartition(".")[2]


def _have_own_names(metrics: tuple[OwnMetric, ...]) -> tuple[OwnMetric, ...]:
    names = [metric.column for metric in metrics]
    for name in names:
        if name in ("loss", "acc") or names.count(name) > 1 or not name.isidentifier():
            raise ValueError(f"needs a name in place of {name}: add one of its own, name: f1")
    return metrics


class MetricsConfig(Section):
    """What is measured beside loss and accuracy."""

    extra: Annotated[tuple[OwnMetric, ...], AfterValidator(_have_own_names)] = Field(
        description=(
            "Metrics of torchmetrics or your own, [{_target_: "
            "torchmetrics.classification.MulticlassF1Score, num_classes: 10, average: macro}], "
            "given on the command line only, measured in validation and test; `name` names one, "
            "further keys are passed to it."
        )
    )


class TensorBoardConfig(Section):
    """TensorBoard; its files lie in the folder of the run."""


class WandbConfig(Section):
    """Weights & Biases."""

    project: TrackerName | None = Field(
        description="Project in Weights & Biases; null: WANDB_PROJECT, else layerscope."
    )
    name: TrackerName | None = Field(
        description="Name of the run in Weights & Biases; null: its folder's name."
    )


class MlflowConfig(Section):
    """MLflow."""

    experiment: TrackerName | None = Field(
        description="Experiment in MLflow; null: MLFLOW_EXPERIMENT_NAME, else layerscope."
    )
    name: TrackerName | None = Field(
        description="Name of the run in MLflow; null: its folder's name."
    )
    uri: Annotated[str, Field(min_length=1), AfterValidator(_without_password)] | None = Field(
        description=(
            "Address of MLflow's store or server, sqlite:///mlflow.db or http://host:5000; null: "
            "MLFLOW_TRACKING_URI, else mlflow.db in the run's folder."
        )
    )


class LoggerConfig(Section):
    """Experiment trackers beside metrics.csv, each under its name; a tracker not chosen is null."""

    tensorboard: TensorBoardConfig | None = None
    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_one_name(cls, values: Any) -> Any:
        """Read the form of earlier versions, which had one tracker: {name: wandb}."""
        match values:
            case {"name": "csv", **others}:
                return others
            case {"name": "tensorboard", **others}:
                return {"tensorboard": {}, **others}
            case {"name": "wandb", **others}:
                return {"wandb": {"project": None, "name": None}, **others}
            case {"name": "mlflow", **others}:
                return {"mlflow": {"experiment": None, "name": None, "uri": None}, **others}
        return values


class PathsConfig(Section):
    """Directories of files whose place is not given."""

    outputs: str = Field(
        description="Directory of the folders that are named by time, relative to the current one."
    )


class TrainConfig(Section):
    """A whole training run."""

    model: NetworkConfig = Field(description="Network to train, with the recipe that suits it.")
    data: DataConfig = Field(
        description=(
            "Data set; synthetic is made on the fly, imagefolder and custom are pictures of your "
            "own."
        )
    )
    optimizer: OptimizerConfig = Field(
        description="Optimizer; adam_small suits networks of a hundred parameters."
    )
    scheduler: SchedulerConfig = Field(
        description="Course of the learning rate; linear and cosine warm up."
    )
    loss: LossConfig = Field(
        description=(
            "Loss; cross_entropy_plain is without label smoothing, mse is against one-hot labels."
        )
    )
    trainer: TrainerConfig = Field(
        description="Where to train; ddp and ddp_spawn do with several processes."
    )
    callbacks: CallbacksConfig = Field(description="What happens beside training.")
    metrics: MetricsConfig = Field(description="What is measured beside loss and accuracy.")
    logger: LoggerConfig = Field(
        description="Experiment trackers beside metrics.csv; several as [tensorboard,wandb]."
    )
    seed: Seed = Field(
        description="Seed of the weights and of the order and augmentation of the images."
    )
    ckpt_path: LocalPath | None = Field(
        description=(
            "Checkpoint to resume from, in a new directory; null: start from random weights."
        )
    )
    resume: Literal["auto"] | None = Field(
        description=(
            "auto, with an explicit hydra.run.dir (in a sweep hydra.sweep.dir): resume the run "
            "there from its last good checkpoint, or start it; a finished one is left as it is. "
            "Null: the directory must be new."
        )
    )
    allow_changes: bool = Field(
        description=(
            "Resume although the configuration, the seed, the threads, the processes or the device "
            "differ from the checkpoint's, so that the run will end differently."
        )
    )
    checkpoint_every_n_steps: Count | None = Field(
        description=(
            "Training batches between checkpoints within an epoch; null: only at the end of each "
            "epoch."
        )
    )
    profile: bool | Literal["auto"] = Field(
        description=(
            "Write a profile at the end: true, false, or auto, for runs of 2,000 steps and more."
        )
    )

    def to_plain(self) -> dict[str, Any]:
        """Return plain data, as config.yaml and a checkpoint hold it."""
        return self.model_dump(mode="json", by_alias=True)


class EvaluateConfig(Section):
    """The keys of an evaluation that are not the checkpoint's."""

    ckpt_path: LocalPath = Field(description="Checkpoint to evaluate.")


class PredictConfig(Section):
    """The keys of a prediction that are not the checkpoint's."""

    ckpt_path: LocalPath = Field(description="Checkpoint whose network looks at the picture.")
    image: LocalPath = Field(
        description=(
            "Picture file; its central square is scaled to the data set's size, and what is "
            "transparent lies on white."
        )
    )


class InstrumentsConfig(Section):
    """The instruments of a profile."""

    outputs: bool = Field(description="Measure the layers' outputs.")
    saved: bool = Field(description="Measure what autograd saves for backward.")
    fvcore: bool = Field(description="Let fvcore count.")
    torchinfo: bool | None = Field(
        description="Let torchinfo summarize; null: where it is installed."
    )
    flop_counter: bool = Field(description="Let torch's FLOP counter count.")
    profiler: bool = Field(description="Let torch's profiler count FLOPs.")
    memory: bool = Field(description="Measure the peak of a step.")
    time: bool = Field(description="Time the layers.")
    machine: bool = Field(
        description="Measure how fast the machine copies and multiplies matrices."
    )

    @property
    def chosen(self) -> frozenset[str]:
        """Names of those that are on."""
        return frozenset(
            name for name, is_on in self if is_on or (is_on is None and is_installed(name))
        )


class CompareConfig(Section):
    """A comparison of two profiles."""

    a: LocalPath = Field(description="A saved profile.json, or the folder that it is in.")
    b: LocalPath = Field(description="The profile that is compared with it, likewise.")


class AuditConfig(Section):
    """An audit of printed figures."""

    model: NetworkConfig = Field(
        description="Network that the figures are held against; by default the one the file names."
    )


class ReportSweepConfig(Section):
    """A report on a sweep, which has no keys."""


class ProfileConfig(Section):
    """A whole profile."""

    model: NetworkConfig = Field(description="Network to profile.")
    optimizer: OptimizerConfig = Field(
        description=(
            "Optimizer that takes the dry run's steps: its state and temporaries count for the "
            "largest batch that fits; no instrument runs it."
        )
    )
    ckpt_path: LocalPath | None = Field(
        description=(
            "Checkpoint of a trained network to profile, which says which network it is; null: "
            "random weights."
        )
    )
    batch_size: Count = Field(description="Images in the batch.")
    input_shape: Annotated[tuple[Count, ...], Field(min_length=1)] | None = Field(
        description="Shape of one input, [C,H,W]; null: model.input_shape."
    )
    dtype: Literal["float32", "bfloat16", "bf16_autocast"] = Field(
        description="Data type of the weights and images, or autocast to bfloat16."
    )
    device: str = Field(
        description=(
            "cpu, cuda or cuda:0. Where no GPU is here, a forecast: the textbook and what CUDA "
            "would save, by a dry run; no instrument measures, and the peak is unknown."
        )
    )
    channels_last: bool = Field(
        description="Lay weights and images out in memory with their channels last."
    )
    train: bool = Field(description="Put the network into train mode; false: eval mode.")
    freeze: OneOrSeveral[Annotated[str, Field(min_length=1)]] = Field(
        description=(
            "Modules by their paths, or beginnings of parameter names, that require no gradient, "
            "[block1,block2]; modes stay."
        )
    )
    input_requires_grad: bool = Field(description="Compute the gradient of the input too.")
    instruments: InstrumentsConfig = Field(description="Instruments that run.")
    depth: Count | None = Field(
        description=(
            "Depth of the printed layer table in the module tree, 1 sums up the topmost modules; "
            "null: the largest depth that is not too long."
        )
    )
    budget: LocalPath | None = Field(
        description=(
            "A saved profile.json; the exit code is 1 where a layer has grown beyond it; null: "
            "none."
        )
    )
    tolerance: NonNegative = Field(
        description="Share of a budget's figure that it may be exceeded by, 0.05 for 5 %."
    )


class Choice(Section):
    """What can be chosen of an explanation, on a command line and in a call alike."""

    seed: Seed = Field(description="Seed of random weights and of the random image.")
    layer: LayerName | None = Field(
        description="Layer whose values are explained; null: all layers."
    )
    position: Place = Field(
        description=(
            "[n,c,h,w] of the layer's output; null: row 1, column 1 of channel 0, or 0 where there "
            "is no such. The positions need layer."
        )
    )
    input_position: Place = Field(
        description=(
            "[n,c,h,w] for dL/dx; null: the first position of the receptive field that is no "
            "padding."
        )
    )
    weight_position: Place = Field(
        description=(
            "[o,c,h,w] of the weight for dL/dw and the two updates; null: the first weight of that "
            "output channel."
        )
    )
    target: Index = Field(description="Class that the loss compares with.")
    learning_rate: Positive = Field(description="Learning rate of the step of SGD and of Adam.")


class ExplainConfig(Choice):
    """A whole explanation."""

    model: NetworkConfig = Field(description="Network to explain.")
    loss: LossConfig = Field(
        description="Loss; cross_entropy_plain is without label smoothing, as a textbook has it."
    )
    ckpt_path: LocalPath | None = Field(
        description=(
            "Checkpoint of a trained network to explain, which says which network and loss it is; "
            "null: random weights."
        )
    )
    image: LocalPath | None = Field(
        description=(
            "Picture file, seen as the checkpoint's network sees its images, what is transparent "
            "on white; null: random numbers by seed."
        )
    )
    instance: Literal["random", "seed"] = Field(
        description=(
            "random, or seed: the worked example of tiny_cnn, its image and its printed weights."
        )
    )
    batch_size: Count = Field(
        description="Images in the batch; input and layers together hold at most 2^26 numbers."
    )
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        description="Data type of the weights and images."
    )
    train: bool | None = Field(
        description="Put the network into train mode; null: true, but false for a checkpoint."
    )
    analysis: bool = Field(
        description=(
            "Build and measure variants of the network (wider, deeper, separable, …) for the "
            "Analysis."
        )
    )


class DataFacts(Section):
    """A checkpoint's record of the data that its network was trained on."""

    name: Name
    source: Annotated[str, AfterValidator(_is_printable)]
    sha256: dict[str, str]


class PreprocessingFacts(Section):
    """A checkpoint's record of how pictures are prepared for its network."""

    image_size: Size
    grayscale: bool
    groups: dict[
        Name, Annotated[tuple[Annotated[int, Field(ge=0, lt=65_536)], ...], Field(min_length=1)]
    ]
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...]  # shares of white, as a run has them
    std: tuple[Annotated[float, Field(ge=1e-9, le=1)], ...]
    # Null in checkpoints of CIFAR-10 from before there were other data.
    class_names: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    stored_size: Size | None = None

    @field_validator("mean", "std")
    @classmethod
    def _has_every_channel(cls, values: tuple[float, ...], info: ValidationInfo) -> Any:
        if len(values) != (1 if info.data.get("grayscale") else 3):
            raise ValueError("must have a number for each channel")
        return values
