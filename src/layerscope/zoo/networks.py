"""The networks of the zoo, each with the arguments of one call."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision.models as torchvision_zoo
from torch import Tensor, nn

from layerscope.base.optional import is_installed
from layerscope.reconcile import CallArguments
from layerscope.zoo.timm_families import TIMM

BATCH_SIZE = 2
IMAGE_SIZE = 64


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Args:
        group: name of its group.
        build: makes the network, with random weights.
        call: makes the arguments of one call.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    call: Callable[[], CallArguments]


@dataclass(frozen=True)
class ZooGroup:
    """Networks of one kind, from one library.

    Args:
        library: name of the module that has them.
        entries: imports the library and yields the networks.
    """

    name: str
    library: str
    entries: Callable[[], Iterable[Entry]]

    @property
    def is_available(self) -> bool:
        """True if the library is installed."""
        return is_installed(self.library)


def images(*sizes: int) -> Tensor:
    """Return a batch of random images, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((BATCH_SIZE, 3, *sizes), generator=generator)


def _image_call(size: int = IMAGE_SIZE) -> CallArguments:
    return CallArguments((images(size, size),))


# torchvision --------------------------------------------------------------------------------------

# The smallest images that their layers do not shrink to nothing.
_CLASSIFIER_SIZES = {"inception_v3": 299, "maxvit_t": 224}


def _classifiers() -> Iterable[Entry]:
    for name in torchvision_zoo.list_models(module=torchvision_zoo):
        options: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # Drawing them takes a minute.
        if name.startswith("vit_"):
            options["image_size"] = IMAGE_SIZE if not name.endswith("14") else 70
        size = options.get("image_size") or _CLASSIFIER_SIZES.get(name, IMAGE_SIZE)
        build = partial(torchvision_zoo.get_model, name, weights=None, **options)
        yield Entry(name, "torchvision", build, partial(_image_call, size))


def _segmentation() -> Iterable[Entry]:
    for name in torchvision_zoo.list_models(module=torchvision_zoo.segmentation):
        build = partial(torchvision_zoo.get_model, name, weights=None, weights_backbone=None)
        yield Entry(name, "segmentation", build, _image_call)


# Frames and pixels; the others take 4 frames.
_VIDEO_SIZES = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (14, 224)}


def _video() -> Iterable[Entry]:
    for name in torchvision_zoo.list_models(module=torchvision_zoo.video):
        build = partial(torchvision_zoo.get_model, name, weights=None)
        frames, size = _VIDEO_SIZES.get(name, (4, IMAGE_SIZE))
        yield Entry(name, "video", build, partial(_video_call, frames, size))


def _video_call(frames: int, size: int) -> CallArguments:
    return CallArguments((images(frames, size, size),))


def _optical_flow() -> Iterable[Entry]:
    for name in torchvision_zoo.list_models(module=torchvision_zoo.optical_flow):
        build = partial(torchvision_zoo.get_model, name, weights=None)
        yield Entry(name, "optical_flow", build, _flow_call)


def _flow_call() -> CallArguments:
    # 128 pixels: the smallest of four correlation volumes needs 2 of its 64th parts.
    first = images(128, 128)
    return CallArguments((first, first.flip(-1)), {"num_flow_updates": 2})


def _detection() -> Iterable[Entry]:
    for name in torchvision_zoo.list_models(module=torchvision_zoo.detection):
        options: dict[str, Any] = {"weights_backbone": None}
        if not name.startswith("ssd"):  # These take one size only.
            options |= {"min_size": IMAGE_SIZE, "max_size": 2 * IMAGE_SIZE}
        build = partial(torchvision_zoo.get_model, name, weights=None, **options)
        yield Entry(name, "detection", build, partial(_detection_call, name))


def _detection_call(name: str) -> CallArguments:
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.rand(3, 64, 80, generator=generator) for _ in range(BATCH_SIZE)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 36.0], [20.0, 10.0, 70.0, 60.0]])
    target: dict[str, Tensor] = {"boxes": boxes, "labels": torch.tensor([1, 1])}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.ones(2, 64, 80, dtype=torch.uint8)
    if name.startswith("keypointrcnn"):
        target["keypoints"] = torch.tensor([20.0, 20.0, 1.0]).expand(2, 17, 3).clone()
    return CallArguments((pictures, [dict(target) for _ in pictures]))


# timm and segmentation_models_pytorch -------------------------------------------------------------


def _timm() -> Iterable[Entry]:
    import timm  # pyright: ignore[reportMissingImports]

    for name, (size, options) in TIMM.items():
        build = partial(timm.create_model, name, pretrained=False, **options)
        yield Entry(name, "timm", build, partial(_image_call, size))


_DPT_ENCODER = "tu-vit_tiny_patch16_224.augreg_in21k"


def _smp() -> Iterable[Entry]:
    import segmentation_models_pytorch as smp  # pyright: ignore[reportMissingImports]

    for name in smp.MODEL_ARCHITECTURES_MAPPING:
        encoder = _DPT_ENCODER if name == "dpt" else "resnet18"
        options = {"dynamic_img_size": True} if name == "dpt" else {}
        build = partial(smp.create_model, name, encoder, encoder_weights=None, **options)
        size = 128 if name == "pan" else IMAGE_SIZE
        yield Entry(name, "smp", build, partial(_image_call, size))


# transformers -------------------------------------------------------------------------------------


def _tokens() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 100, (BATCH_SIZE, 16), generator=generator)


def _text_call() -> CallArguments:
    return CallArguments((_tokens(),))


def _masked_text_call() -> CallArguments:
    mask = torch.ones(BATCH_SIZE, 16, dtype=torch.int64)
    mask[1, 12:] = 0
    return CallArguments((), {"input_ids": _tokens(), "attention_mask": mask})


def _full_mask_call() -> CallArguments:
    # transformers looks at the values of a mask and leaves out one that is all ones.
    return CallArguments((_tokens(),), {"attention_mask": torch.ones_like(_tokens())})


def _pixels_call() -> CallArguments:
    return CallArguments((), {"pixel_values": images(IMAGE_SIZE, IMAGE_SIZE)})


# The smallest sizes that the configurations accept.
_TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GPT2 = {
    "vocab_size": 100,
    "n_positions": 32,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_VIT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 16,
}
_SWIN = {
    "image_size": IMAGE_SIZE,
    "embed_dim": 16,
    "depths": [1, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_SEGFORMER = {**_STAGES, "decoder_hidden_size": 32, "num_attention_heads": [1, 2, 3, 4]}
_BACKBONE = {**_STAGES, "embedding_size": 8, "out_features": ["stage4"]}
_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_queries": 5,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
}


def _build_transformer(model: str, sizes: dict[str, Any], attention: str | None) -> nn.Module:
    import transformers  # pyright: ignore[reportMissingImports]

    config_class = getattr(transformers, model).config_class
    if config_class is transformers.DetrConfig:
        sizes = sizes | {"backbone_config": transformers.ResNetConfig(**_BACKBONE)}
    options = {} if attention is None else {"attn_implementation": attention}
    return getattr(transformers, model)._from_config(config_class(**sizes), **options)


def _transformers() -> Iterable[Entry]:
    def entry(
        name: str,
        model: str,
        sizes: dict[str, Any],
        call: Callable[[], CallArguments],
        attention: str | None = None,
    ) -> Entry:
        build = partial(_build_transformer, model, sizes, attention)
        return Entry(name, "transformers", build, call)

    yield entry("bert", "BertModel", _TEXT, _masked_text_call)
    yield entry("bert_full_mask", "BertModel", _TEXT, _full_mask_call)
    yield entry("bert_eager", "BertModel", _TEXT, _masked_text_call, "eager")
    yield entry("gpt2", "GPT2LMHeadModel", _GPT2, _text_call)
    yield entry("gpt2_eager", "GPT2LMHeadModel", _GPT2, _text_call, "eager")
    llama = {**_TEXT, "num_key_value_heads": 2}
    yield entry("llama", "LlamaForCausalLM", llama, _text_call)
    yield entry("vit", "ViTModel", _VIT, _pixels_call)
    yield entry("swin", "SwinModel", _SWIN, _pixels_call)
    yield entry("convnextv2", "ConvNextV2ForImageClassification", _STAGES, _pixels_call)
    yield entry("segformer", "SegformerForSemanticSegmentation", _SEGFORMER, _pixels_call)
    yield entry("detr", "DetrForObjectDetection", _DETR, _pixels_call)


GROUPS = (
    ZooGroup("transformers", "transformers", _transformers),
    ZooGroup("smp", "segmentation_models_pytorch", _smp),
    ZooGroup("timm", "timm", _timm),
    ZooGroup("segmentation", "torchvision", _segmentation),
    ZooGroup("optical_flow", "torchvision", _optical_flow),
    ZooGroup("video", "torchvision", _video),
    ZooGroup("detection", "torchvision", _detection),
    ZooGroup("torchvision", "torchvision", _classifiers),
)
