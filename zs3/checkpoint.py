"""Models on disk: the recipe, the seen classes, the weights, and one digest over all of them.

The weights of a trained model are a file of safetensors; those of a composed one are references to models of others.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from zs3.config import Recipe, contents, digest_of, recipe_from_json
from zs3.files import parsed_json, read_file
from zs3.models import how_to_make
from zs3.nets.clip_trunk import bounded_scale
from zs3.nets.content_transfer import ContentTransfer
from zs3.nets.networks import Network, build_network, tensor_shapes
from zs3.parts.references import Part, located, parts_from_json
from zs3.tensor_files import MAX_BYTES, parse_tensors, refuse_not_finite
from zs3.vocabulary import ClassEntry, concept, known, names_of
from zs3.wording import shortened

SHIPPED = Path(__file__).parent / "weights"
WEIGHTS, RECIPE, CLASSES, PARTS = "model.safetensors", "recipe.json", "seen_classes.json", "parts.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A trained model: its recipe, its weights and its seen classes."""

    origin: str
    """Where it was read from, for error messages."""
    recipe: Recipe
    state: dict[str, Tensor]
    """The network's state dict, float32; empty for a composed model."""
    seen_classes: tuple[str, ...]
    """Names of the classes that had training masks."""
    digest: str
    """SHA-256 over weights, recipe and seen classes, hex; of a composed model over the digests of its parts."""
    masks_at: Path | None = None
    """Of a composed model: the folder of its mask source on this machine."""

    @property
    def seen_concepts(self) -> frozenset[str]:
        """The concepts of the seen classes (`zs3.vocabulary.concept`)."""
        return frozenset(concept(name) for name in self.seen_classes)

    def seen(self, entries: Iterable[ClassEntry]) -> dict[int, bool]:
        """Class id → whether the class had training masks, by the recipe's rule; False if it is marked unseen."""
        if self.recipe.seen_by == "name":
            trained = {name for one in self.seen_classes for name in names_of(ClassEntry(id=0, name=one))}
            return {e.id: e.role != "unseen" and not trained.isdisjoint(names_of(e)) for e in entries}
        concepts = self.seen_concepts
        return {entry.id: known(entry, concepts) for entry in entries}

    @property
    def trained_concepts(self) -> frozenset[str]:
        """The concepts that had training masks: of each name of the seen classes where the recipe compares names."""
        if self.recipe.seen_by != "name":
            return self.seen_concepts
        entries = (ClassEntry(id=0, name=name) for name in self.seen_classes)
        return frozenset(concept(name) for entry in entries for name in names_of(entry))

    @property
    def query_logit_scale(self) -> float:
        """1 / temperature of the query branch: the recipe's, or what an FC-CLIP learned."""
        if self.recipe.model.architecture == "fcclip":
            return float(bounded_scale(self.state["logit_scale"]))
        return 1 / self.recipe.model.temperature

    @property
    def image_logit_scale(self) -> float | None:
        """The same of the image branch where its CLIP is part of the network; None: that of the recipe's encoder."""
        logarithm = self.clip_state.get("logit_scale")
        return None if logarithm is None else float(bounded_scale(logarithm))

    def content_transfer(self) -> ContentTransfer | None:
        """What MAFT+ does to class embeddings before it compares them with a picture; None for another network."""
        model, prefix = self.recipe.model, "transfer."
        if model.text_transfer == "none":
            return None
        transfer = ContentTransfer(model.text_dim, model.text_transfer)
        state = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        transfer.load_state_dict(state, strict=True)
        return transfer.eval()

    @property
    def clip_state(self) -> dict[str, Tensor]:
        """The weights of the CLIP that is a part of an FC-CLIP, in open_clip's names; empty for another network."""
        prefix = "backbone.model."
        return {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}

    def network(self) -> Network:
        """The network in evaluation mode.

        Raises:
            ValueError: the weights do not fit the recipe's network.
        """
        misfit = self._first_misfit()
        if misfit:
            raise ValueError(
                f"checkpoint {self.origin}: the weights do not fit the recipe {self.recipe.name!r}: {misfit}. "
                "Are recipe.json and model.safetensors of the same run?"
            )
        network = build_network(self.recipe.model)
        network.load_state_dict(self.state, strict=True)
        return network.eval()

    def _first_misfit(self) -> str:
        """What the weights and the recipe disagree on first; empty if they fit. No memory is taken for weights."""
        model = self.recipe.model
        if model.architecture != "pixel_level" and model.num_layers > len(self.state):
            return f"num_layers is {model.num_layers}, and there are {len(self.state)} tensors"
        expected = tensor_shapes(model)
        names = [*expected, *(name for name in self.state if name not in expected)]
        for name in names:
            shapes = [
                "missing" if shape is None else f"of shape {list(shape)}"
                for shape in (
                    expected.get(name),
                    self.state[name].shape if name in self.state else None,
                )
            ]
            if shapes[0] != shapes[1]:
                return f"tensor {name!r} is {shapes[1]} in the weights and {shapes[0]} in the network"
        return ""


def load_checkpoint(source: str) -> Checkpoint:
    """The checkpoint of a shipped name (`zs3-mini`), a local folder or a uri; nothing is downloaded for a composed one.

    Raises:
        ValueError: there is no checkpoint of zs3, or it cannot be read, or a part of a composed one has changed.
        FileNotFoundError: a part of a composed one is not on this machine.
    """
    folder = str(SHIPPED / source) if (SHIPPED / source / RECIPE).is_file() else source
    contents_of = {name: _content(folder, name, source) for name in (RECIPE, CLASSES)}
    try:
        recipe_json, seen = (parsed_json(content, name) for name, content in contents_of.items())
        if not isinstance(seen, list) or not all(isinstance(name, str) for name in seen):
            raise ValueError(f"{CLASSES} is {shortened(seen)}, expected a list of class names")
    except ValueError as error:
        raise _unreadable(source, error) from error
    recipe = recipe_from_json(recipe_json, origin=f"checkpoint {source!r}")
    weights = PARTS if recipe.model.architecture == "composed" else WEIGHTS
    contents_of[weights] = _content(folder, weights, source)
    state: dict[str, Tensor] = {}
    parts: dict[str, Part] = {}
    try:
        if weights == PARTS:
            parts = parts_from_json(contents_of[PARTS], PARTS)
        else:
            state = parse_tensors(contents_of[WEIGHTS], ".safetensors", WEIGHTS)
            refuse_not_finite(state, WEIGHTS)
    except ValueError as error:
        raise _unreadable(source, error) from error
    places = {role: located(role, part, source) for role, part in parts.items()}
    return Checkpoint(
        origin=source,
        recipe=_with_encoder(recipe, places["encoder"]) if places else recipe,
        state={name: value.float() if value.is_floating_point() else value for name, value in state.items()},
        seen_classes=tuple(seen),
        digest=digest_of({name: hashlib.sha256(part).hexdigest() for name, part in contents_of.items()}),
        masks_at=places.get("masks"),
    )


def _content(folder: str, name: str, source: str) -> bytes:
    """Of a file of a checkpoint."""
    try:
        return read_file(f"{folder.rstrip('/')}/{name}", *([MAX_BYTES] if name == WEIGHTS else []))
    except (FileNotFoundError, NotADirectoryError) as error:
        if recipe_hint := how_to_make(source):
            raise ValueError(f"there is no checkpoint {source!r}: {recipe_hint}") from error
        shipped = ", ".join(sorted(p.parent.name for p in SHIPPED.glob(f"*/{RECIPE}"))) or "none"
        raise ValueError(
            f"checkpoint {source!r} has no {name}; expected a folder that zs3 train wrote "
            f"or a shipped name ({shipped}); zs3 models lists models and how to get them"
        ) from error


def _unreadable(source: str, error: ValueError) -> ValueError:
    return ValueError(f"checkpoint {source!r} cannot be read: {error}; copy it again or retrain")


def _with_encoder(recipe: Recipe, path: Path) -> Recipe:
    """A composed recipe with the place of its encoder on this machine instead of its name."""
    stored = recipe.image_text.encoder
    encoder = replace(stored, architecture="" if path.is_dir() else stored.architecture, weights=str(path))
    text = replace(recipe.image_text, encoder=encoder)
    return replace(recipe, query_text=text, image_text=text)


def save_checkpoint(
    folder: Path, recipe: Recipe, network: Network, seen_classes: Sequence[str], *, half: bool = False
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        half: store floating-point weights as float16, for shipping; they are read as float32.

    Raises:
        ValueError: a weight is not finite, or too large for float16.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    if half:
        state = {k: v.to(torch.float16) if v.is_floating_point() else v for k, v in state.items()}
    refuse_not_finite(state, f"checkpoint {folder}")
    _save(folder, recipe, seen_classes, lambda part: safetensors.torch.save_file(state, part / WEIGHTS))


def save_composed(folder: Path, recipe: Recipe, parts: Mapping[str, Part]) -> None:
    """Write a checkpoint that refers to its parts, whole or not at all. Its training classes are not known."""
    text = json.dumps({role: asdict(part) for role, part in parts.items()}, indent=1) + "\n"
    _save(folder, recipe, (), lambda part: (part / PARTS).write_text(text))


def _save(
    folder: Path, recipe: Recipe, seen_classes: Sequence[str], save_weights: Callable[[Path], object]
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part = Path(temporary) / "checkpoint"
        part.mkdir()
        save_weights(part)
        (part / RECIPE).write_text(json.dumps(contents(recipe), indent=1) + "\n")
        (part / CLASSES).write_text(json.dumps(list(seen_classes), indent=1) + "\n")
        if folder.exists():
            folder.replace(Path(temporary) / "old")
        part.replace(folder)
