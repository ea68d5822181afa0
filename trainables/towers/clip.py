"""CLIP's two towers without their pooling, from open_clip, and small ones for machines without a GPU.

Shapes: N images, C channels, H x W pixels, L places, D width of a place; E expressions, T tokens.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from ...datasets.problems import InputError
from ...datasets.storage.store import read_file
from .names import SHOWN, listed, unwrapped
from .restricted import load_tensors
from .sizes import ClipSizes, clip_sizes

MOST_BLOCKS = 200  # of a stage whose size is read from weights
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ConvTower(nn.Module):
    """Four strided convolutions, stride 16 in all: N x 3 x H x W to N x width x H/16 x W/16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        plan = [(3, width // 6), (width // 6, width // 3), (width // 3, 2 * width // 3), (2 * width // 3, width)]
        layers: list[nn.Module] = []
        for index, (inner, outer) in enumerate(plan):
            size = 5 if index == 0 else 3
            layers += [nn.Conv2d(inner, outer, size, 2, size // 2, bias=False), nn.BatchNorm2d(outer)]
            layers += [nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        return self.body(image_NCHW)


class ClipTowers(nn.Module):
    """Both towers; entries of the state dict are named as OpenAI names them."""

    def __init__(self, sizes: ClipSizes, *, quick_gelu: bool = True) -> None:
        super().__init__()
        self.sizes = sizes
        whole = CLIP(sizes.embed_dim, _vision(sizes), _text(sizes), quick_gelu=quick_gelu)
        self.visual: nn.Module = whole.visual if sizes.layers else ConvTower(sizes.width)
        if hasattr(self.visual, "attnpool"):
            del self.visual.attnpool
        self.transformer, self.ln_final = whole.transformer, whole.ln_final
        self.token_embedding = whole.token_embedding
        self.positional_embedding, self.text_projection = whole.positional_embedding, whole.text_projection
        self.register_buffer("attn_mask", whole.attn_mask, persistent=False)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=sizes.context)

    @property
    def is_vit(self) -> bool:
        """Whether the visual tower is a transformer."""
        return self.sizes.is_vit

    @property
    def visual_dim(self) -> int:
        """Width of a place of the visual tower's map."""
        return self.sizes.width * 32 if len(self.sizes.layers) == 4 else self.sizes.width

    def places(self, image_px: int) -> int:
        """How many places the map of a square image has."""
        return (image_px // self.sizes.stride) ** 2

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """CLIP's BPE ids, E x T int64; longer texts are cut, their end kept."""
        return torch.as_tensor(self._tokenizer(list(texts)))

    def encode_image(self, image_NCHW: Tensor) -> Tensor:
        """The last map of the visual tower, N x L x D, before any pooling."""
        if self.is_vit:
            return _vit_map(self.visual, image_NCHW)
        map_NDHW = image_NCHW if isinstance(self.visual, ConvTower) else self.visual.stem(image_NCHW)  # type: ignore[operator]
        for stage in self._visual_stages():
            map_NDHW = stage(map_NDHW)
        return map_NDHW.flatten(2).transpose(1, 2)

    def _visual_stages(self) -> list[nn.Module]:
        visual = self.visual
        if isinstance(visual, ConvTower):
            return [visual]
        names = ("transformer",) if self.is_vit else ("layer1", "layer2", "layer3", "layer4")
        return [visual.get_submodule(name) for name in names]

    def stages(self) -> list[nn.Module]:
        """The parts that do the work, for torch.compile."""
        return [*self._visual_stages(), self.transformer]

    def encode_text(self, tokens_ET: Tensor, n_states: int) -> tuple[Tensor, Tensor]:
        """(projected states of the first `n_states` tokens, E x n x D; the end token's, E x D)."""
        embedded_ETD = self.token_embedding(tokens_ET % self.sizes.vocabulary) + self.positional_embedding
        state_ETD = self.ln_final(self.transformer(embedded_ETD, attn_mask=self.attn_mask))
        end_ED = state_ETD[torch.arange(len(tokens_ET), device=tokens_ET.device), tokens_ET.argmax(-1)]
        return state_ETD[:, :n_states] @ self.text_projection, end_ED @ self.text_projection


def _vision(sizes: ClipSizes) -> CLIPVisionCfg:
    layers: Any = sizes.layers if len(sizes.layers) == 4 else (sizes.layers or (1,))[0]
    return (
        CLIPVisionCfg(
            layers=layers,
            width=sizes.width,
            head_width=sizes.head_width,
            patch_size=sizes.patch,
            image_size=sizes.image_px,
        )
        if sizes.layers
        else CLIPVisionCfg(layers=1, width=64, patch_size=sizes.patch, image_size=sizes.image_px)
    )


def _text(sizes: ClipSizes) -> CLIPTextCfg:
    return CLIPTextCfg(
        context_length=sizes.context,
        vocab_size=sizes.vocabulary,
        width=sizes.text_width,
        heads=sizes.text_heads,
        layers=sizes.text_layers,
    )


def _vit_map(visual: Any, image_NCHW: Tensor) -> Tensor:
    """A ViT's patch states after its last norm; positions are interpolated to the image's grid."""
    return vit_states(visual, visual.conv1(image_NCHW), visual.transformer)[:, 1:]


def vit_states(visual: Any, patch_NDHW: Tensor, blocks: Callable[[Tensor], Tensor]) -> Tensor:
    """A ViT's states after its last norm, the class's first, N x (1 + L) x D, from patch states; `blocks` is run in
    place of its transformer."""
    patch_NLD = patch_NDHW.flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(patch_NLD), 1, -1)
    position_LD = _resample(visual.positional_embedding, visual.grid_size, patch_NDHW.shape[-2:])
    return visual.ln_post(blocks(visual.ln_pre(torch.cat([first, patch_NLD], 1) + position_LD)))


def _resample(position_LD: Tensor, old: tuple[int, int], new: Sequence[int]) -> Tensor:
    """Position embeddings, class first, for another grid of patches (bicubic)."""
    if tuple(old) == tuple(new):
        return position_LD
    first, rest = position_LD[:1], position_LD[1:]
    map_1DHW = rest.reshape(1, *old, -1).permute(0, 3, 1, 2)
    map_1DHW = F.interpolate(map_1DHW, size=tuple(new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, map_1DHW.flatten(2)[0].T])


def build(name: str, weights: str | None = None) -> ClipTowers:
    """The towers `name`, with random weights, a hub tag's (`openai`), or those of a file or object.

    A file is a safetensors or a torch file with the state dict of a CLIP, OpenAI's TorchScript archives
    included; it is read without executing anything in it. Raises InputError for an unknown name, weights
    that can't be read, or weights that don't fit.
    """
    towers = ClipTowers(clip_sizes(name))
    if weights is not None:
        state = _hub_weights(name, weights) if _is_tag(weights) else read_weights(weights, towers.state_dict())
        load_clip_state(towers, state, weights)
    return towers


def _is_tag(weights: str) -> bool:
    return "/" not in weights and "." not in weights


def _hub_weights(name: str, tag: str) -> dict[str, Tensor]:
    if tag not in open_clip.list_pretrained_tags_by_model(name):
        choices = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise InputError(f"weights of {name} must be a file, an s3:// object or one of the tags {choices}, got {tag!r}")
    return dict(open_clip.create_model(name, pretrained=tag, force_quick_gelu=True).state_dict())


def read_weights(uri: str, wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors by name from a safetensors or torch file in a folder or on s3://, whatever the model was saved under:
    that which has most of the names `wanted`. Raises InputError."""
    try:
        content = read_file(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no weights at {uri}") from None
    except IsADirectoryError:
        raise InputError(f"weights must be a file, got the folder {uri}") from None
    if not uri.endswith(".safetensors"):
        return load_tensors(io.BytesIO(content), uri, wanted)
    try:
        tensors = load_safetensors(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"weights at {uri} can't be read: {error}") from None
    return unwrapped(tensors, wanted, uri)


def load_clip_state(towers: ClipTowers, state: dict[str, Tensor], where: str) -> None:
    """Loads a CLIP's state dict; what only the pooling needs is ignored, anything else must fit."""
    ignored = (
        "visual.attnpool.",
        "logit_scale",
        "logit_bias",
        "visual.proj",
        "input_resolution",
        "context_length",
        "vocab_size",
    )
    kept = {"visual.proj"} if towers.is_vit else set()  # a ViT's way into the space it shares with text
    given = {
        k: v.float() if v.is_floating_point() else v for k, v in state.items() if k in kept or not k.startswith(ignored)
    }
    try:
        result = towers.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise InputError(f"weights at {where} have other sizes: {error}") from None
    missing = [k for k in result.missing_keys if not k.startswith(ignored)]
    if missing or result.unexpected_keys:
        unknown = result.unexpected_keys
        counts = f" ({len(missing)} and {len(unknown)} in all)" if max(len(missing), len(unknown)) > SHOWN else ""
        shown = f"missing {missing[:SHOWN]}, unknown {unknown[:SHOWN]}{counts}"
        raise InputError(f"weights at {where} don't fit: {shown}")


def sizes_from_state(state: dict[str, Tensor], text_heads: int | None = None) -> ClipSizes:
    """The sizes of a ResNet CLIP from the shapes of its state dict (heads: width / 64 unless given).

    Raises InputError for one that is no ResNet CLIP, and for a number of heads that does not divide the text tower's
    width.
    """
    stages = [_blocks(state, f"visual.layer{i}.") for i in (1, 2, 3, 4)]
    vocabulary, text_width = _shape(state, "token_embedding.weight", 2)
    heads = text_heads if text_heads is not None else max(1, text_width // 64)
    if heads < 1 or text_width % heads:
        raise InputError(f"text_heads must divide {text_width}, the width of the text tower, got {heads}")
    return ClipSizes(
        embed_dim=_shape(state, "text_projection", 2)[1],
        layers=tuple(stages),
        width=_shape(state, "visual.layer1.0.conv1.weight", 4)[0],
        text_width=text_width,
        text_heads=heads,
        text_layers=_blocks(state, "transformer.resblocks."),
        context=_shape(state, "positional_embedding", 2)[0],
        vocabulary=vocabulary,
    )


def _blocks(state: Mapping[str, Tensor], start: str) -> int:
    """How many blocks a stage has, whose names are numbers from 0."""
    numbers = {name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)}
    if not numbers or numbers != {str(i) for i in range(len(numbers))}:
        raise InputError(f"no ResNet CLIP: {start} must have blocks 0, 1, ..., got {listed(sorted(numbers))}")
    if len(numbers) > MOST_BLOCKS:
        raise InputError(f"no ResNet CLIP: {start} must have at most {MOST_BLOCKS} blocks, got {len(numbers)}")
    return len(numbers)


def _shape(state: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in state:
        raise InputError(f"no ResNet CLIP: missing {name}; found {listed(state)}")
    if state[name].ndim != axes or not state[name].numel():
        raise InputError(f"no ResNet CLIP: {name} must have {axes} axes, got {tuple(state[name].shape)}")
    return tuple(state[name].shape)
