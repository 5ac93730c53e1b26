"""From a run's folder to the model in it, and to everything that is known of where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from medrl.data.templates import stored_template_hash
from medrl.errors import ModelError, RegistryError
from medrl.hashing import content_hash
from medrl.lora.identity import MERGE_FILE, WEIGHTS_FILE, adapter_hash, model_hash, read_record
from medrl.models.loading import check_model_dir
from medrl.registry.evaluation import EVALUATION_FILE, Evaluation, read_evaluation
from medrl.registry.files import other_files
from medrl.registry.record import Record, now, user_name

MODELS = ("merged", "model")  # where a stage leaves its model, below its run's folder


def find_model(run: Path) -> Path:
    """The language model that `run` is or has left: a model's directory, a run's folder or a pipeline's.

    Of a pipeline, the last link's that trained or merged a language model. Raises RegistryError when there is none.
    """
    links = _links(run)
    for folder in reversed(links or [run]):
        model = next((d for d in (folder, *(folder / name for name in MODELS)) if (d / "config.json").is_file()), None)
        if model is not None and not (links and _is_scorer(model)):
            return model
        if model is None and (folder / "adapter").is_dir():
            raise RegistryError(
                f"{folder} has an adapter, but no merged model",
                remedy=f"medrl merge {folder / 'adapter'} --out DIR, then register DIR",
            )
    raise RegistryError(
        f"no model in {run}", limit="a model's directory, or the folder of a run or pipeline that left one")


def describe(model: Path, evaluation: Path | None = None, run: Path | None = None) -> Record:
    """Check that `model` is whole (merged, readable, with tokenizer and template) and gather its facts.

    `evaluation`: an evaluation.json of this model; `run`: the training run's folder (None: looked for around the
    model). Raises ModelError, DataError or RegistryError.
    """
    template = _check_whole(model)
    merge = _read_json(model / MERGE_FILE)
    trained = _training_run(model, merge, run)
    config, checksum = _read_yaml(trained / "config.yaml") if trained else {}, model_hash(model, afresh=True)
    merged = merge is not None or not trained or config.get("lora") is not None
    return Record(
        checksum=checksum,
        files=other_files(model),
        template_hash=template,
        source=str(model.resolve()),
        **_origin(trained, merge, config, merged),
        data=_data_hashes(config.get("data") or {}),
        merged=merged,
        merge=merge,
        evaluation=_evaluation_of(checksum, evaluation),
        registered_by=user_name(),
        registered_at=now(),
    )


def find_evaluation(run: Path, model: Path) -> Path | None:
    """The evaluation.json of `model` in the run or in a link of the pipeline; else one of what was in its place before.

    RegistryError if there are several.
    """
    files = [file for folder in (run, *_links(run)) if (file := folder / EVALUATION_FILE).is_file()]
    read = {file: read_evaluation(file) for file in files}
    found = [file for file in files if read[file].model_sha256 == model_hash(model)]
    found = found or [file for file in files if Path(read[file].model).resolve() == model.resolve()]
    if len(found) > 1:
        raise RegistryError(f"{run} has several evaluations of {model}", got=", ".join(map(str, found)),
                            remedy="choose one with --evaluation")
    return found[0] if found else None


def _links(run: Path) -> list[Path]:
    """The folders of a pipeline's links, in the order they ran; none for any other folder."""
    return [run / name for name in _read_json(run / "pipeline.json") or {}]


def _check_whole(model: Path) -> str:
    """The hash of the chat template of a complete language model."""
    check_model_dir(str(model))
    if _is_scorer(model):
        raise ModelError(f"{model} is a reward model", limit="a language model")
    index = _read_json(model / "model.safetensors.index.json")
    expected = (index or {}).get("weight_map", {})
    stored = dict(_tensors(model))
    if adapted := [name for name in stored if ".lora_" in name or ".base_layer." in name]:
        raise ModelError(f"the weights in {model} have an adapter beside them", limit="merged weights",
                         got=adapted[0], remedy="medrl merge")
    if expected and expected != stored:
        wrong = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
        raise ModelError(f"the weights in {model} are not those of its index", got=", ".join(wrong[:5]),
                         remedy="copy the model again")
    template = stored_template_hash(model)
    if template is None:
        raise ModelError(f"the tokenizer in {model} has no chat template", remedy="set model.chat_template in training")
    return template


def _tensors(model: Path) -> Iterator[tuple[str, str]]:
    """(tensor, file) of every tensor; the headers are read, and compared with the sizes of the files."""
    for file in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy") as opened:
                yield from ((name, file.name) for name in opened.keys())  # noqa: SIM118 - not a mapping
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read", got=str(error), remedy="copy the model again") from None


def _is_scorer(model: Path) -> bool:
    kinds = (_read_json(model / "config.json") or {}).get("architectures") or []
    return any(kind.endswith("ForSequenceClassification") for kind in kinds)


def _training_run(model: Path, merge: dict | None, named: Path | None) -> Path | None:
    """The folder of the run that trained `model`: known by its adapter's hash, or as the folder around a full model."""
    wanted = (merge or {}).get("adapter_sha256")

    def trained_it(folder: Path) -> bool:
        if wanted is None:
            return merge is None and folder == model.resolve().parent and (folder / "config.yaml").is_file()
        return (folder / "adapter" / WEIGHTS_FILE).is_file() and adapter_hash(folder / "adapter") == wanted

    parent = model.resolve().parent
    if named is None:
        return next(filter(trained_it, [parent, *sorted(d for d in parent.iterdir() if d.is_dir())]), None)
    if wanted is not None and not trained_it(named):
        raise RegistryError(f"{model} was not merged from an adapter of {named}", limit=f"adapter sha256 {wanted}",
                            remedy="give the run's folder that has adapter/")
    return named.resolve()


def _origin(run: Path | None, merge: dict | None, config: dict[str, Any], merged: bool) -> dict[str, Any]:
    """Base and adapter, as far as they are known."""
    merge = merge or {}
    record = (read_record(run / "adapter") if run else None) or {}
    base = record.get("base_path") or (config.get("model") or {}).get("path")
    base_hash = merge.get("base_sha256") or record.get("base_sha256")
    if base_hash is None and not merged and base and Path(base, "config.json").is_file():
        base_hash = model_hash(base)
    return {
        "run": str(run) if run else None,
        "base": base,
        "base_hash": base_hash,
        "adapter": str(run / "adapter") if run and merged else None,
        "adapter_hash": merge.get("adapter_sha256"),
    }


def _data_hashes(section: dict[str, Any]) -> dict[str, str]:
    """Setting → hash of the files it names; what is no file here (a hub data set) is left out."""
    found = {}
    for name, value in section.items():
        paths = [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, str)]
        for i, path in enumerate(paths):
            if path and Path(path).exists():
                found[name if len(paths) == 1 else f"{name}[{i}]"] = content_hash(path)
    return found


def _evaluation_of(checksum: str, file: Path | None) -> Evaluation | None:
    if file is None:
        return None
    evaluation = read_evaluation(file)
    if evaluation.model_sha256 != checksum:
        raise RegistryError(f"{file} is the evaluation of another model, or of other weights", remedy="evaluate again",
                            limit=f"sha256 {checksum}", got=f"sha256 {evaluation.model_sha256}, of {evaluation.model}")
    return evaluation


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not valid JSON", got=str(error)) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}
