"""A pair to ask: a base model and a fine-tune of it, with a method for each question."""

import dataclasses
import html
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mechdiff import questions
from mechdiff.common.cache import MemoryStore, default
from mechdiff.common.errors import UserError
from mechdiff.inputs.describe_pair import describe, keep_described, toml_of
from mechdiff.inputs.pair_file import Pair, read_pair
from mechdiff.inputs.prompts import Prompt, keep_prompts
from mechdiff.library.interventions import Intervention
from mechdiff.library.own_rows import OwnRows
from mechdiff.library.result import Result
from mechdiff.questions import QUESTIONS, Question, kind_of
from mechdiff.questions.shared.metrics import Function, Metric, as_metric, kl, kl_to_donor
from mechdiff.questions.shared.request import about
from mechdiff.study.provenance import provenance

SETTINGS = ("pair", "device", "dtype", "offload")  # fields that the pair itself gives
MIXED = "One of the two models is in memory, the other is not.\nTry:  AutoModelForCausalLM.from_pretrained for the other"
SOON = 0.5  # seconds before a progress bar appears

Model = str | Path


def load(
    base: Model | Any,
    tuned: Model | Any | None = None,
    *,
    tokenizer: Any = None,
    name: str | None = None,
    domain: str | None = None,
    chat_template: str = "auto",
    device: str = "auto",
    dtype: str | None = None,
    offload: str = "auto",
) -> "ModelPair":
    """A pair of models. Nothing is read into memory before the first question.

    base: a known pair's name or a pair file; or, together with tuned, a model: a folder, a GGUF file or a hub id that was
    downloaded before, with `@revision` after it for another revision than main. tuned: the same, or an adapter on the base.
    Or both are models of transformers or peft in memory; a peft model alone is compared with its base. They are only read, and
    stay as they are. Their results are stored on disk only if name is given, under a hash of the weights; a change of a weight,
    a buffer, an adapter or a mode is noticed at the next question. tokenizer: that of models in memory.
    name: what tables call the pair. domain: the curated prompts of its questions, such as `cultural`; default: the pair file's.
    chat_template: auto, or none to use prompts verbatim. device: auto, cpu or cuda. dtype: float32, bfloat16 or float16; default:
    the device's. offload: on, off, or auto, to keep one model at a time on a GPU that cannot hold both.
    Raises UserError for a pair that does not exist, or is not on this machine, and for models in memory that cannot be compared,
    such as a peft model whose adapter is merged and whose base is not given.

    Example:
        >>> md.load(pair.spec.path).layers
        4
    """
    settings = {"device": device, "dtype": dtype, "offload": offload}
    if not isinstance(base, Model):
        if isinstance(tuned, Model):
            raise UserError(MIXED)
        from mechdiff.library.live import LiveModels

        live = LiveModels(base, base if tuned is None else tuned, tokenizer, name, domain or "", chat_template)
        return ModelPair(live.refresh(), {"device": live.device, "dtype": live.dtype}, domain, live)
    if tuned is None:
        spec = read_pair(str(base))
        return ModelPair(spec if domain is None else dataclasses.replace(spec, domain=domain), settings, domain)
    if not isinstance(tuned, Model):
        raise UserError(MIXED)
    spec = keep_described(describe(base, tuned, name, domain or "", chat_template))
    return ModelPair(spec, settings, domain)


class ModelPair:
    """A base model and a fine-tune of it. Every question is a method: drift, patch, transport, rank, heads, weights, ...

    A method takes the question's own fields, and those that all questions share (`help(pair.patch)` lists them), and returns a
    Result. What was computed before is read from the disk cache; interrupting keeps every finished part.
    Made by `md.load`. spec: the pair's description. settings: the fields device, dtype and offload of every request. domain: its
    domain, if another than the pair's own. live: models in memory, if it is a pair of those.

    Example:
        >>> bool((pair.patch(layers=1, limit=4).table["kl"] >= 0).all())
        True
    """

    def __init__(self, spec: Pair, settings: dict[str, Any], domain: str | None = None, live: Any = None):
        self.spec, self._settings, self._domain, self._live = spec, settings, domain, live
        self._store = default() if live is None or live.stored else MemoryStore()

    @property
    def name(self) -> str:
        """What tables call the pair.

        Example:
            >>> pair.name
            'tiny'
        """
        return self.spec.name

    @property
    def layers(self) -> int:
        """The number of decoder layers. Raises UserError if the models are not on this machine.

        Example:
            >>> pair.layers
            4
        """
        return self.spec.layers

    @property
    def width(self) -> int:
        """The width of the residual stream. Raises UserError if the models are not on this machine.

        Example:
            >>> pair.width
            32
        """
        return self.spec.shape("base").width

    def request(self, question: str, **fields: Any) -> Question:
        """The request of a question on this pair, which `ask` answers. question: its name, such as `patch`. fields: its own, and
        those that all questions share; prompts may be a list of texts, which is stored on this machine.

        Raises UserError for a question or a field that does not exist, and for a value that is not valid.

        Example:
            >>> pair.request("patch", layers=range(2)).layers
            (0, 1)
        """
        if isinstance(fields.get("prompts"), list | tuple):
            fields["prompts"] = keep_prompts(as_prompts(fields["prompts"]))
        return kind_of(question)(**self._fields(fields) | fields)

    def _fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The pair's own fields of every request. fields: those that it is asked with.

        Raises UserError for another device or number format than that of models in memory.
        """
        if self._live is not None and (moved := [name for name in ("device", "dtype", "offload") if name in fields]):
            place = f"they are {self._live.dtype} on {self._live.device}"
            raise UserError(f"Models in memory are read where they are: {place}, so {moved[0]} cannot be chosen.")
        own = {"pair": self.spec.argument} | {key: value for key, value in self._settings.items() if value is not None}
        return own | ({} if self._domain is None else {"domain": self._domain})

    def ask(self, request: Question) -> Result:
        """Answer a request, with a progress bar if it takes long.

        request: as `request` makes it, or a question such as `md.Patch(...)`. Returns the answer: table, summary, chart, notices.
        Raises UserError for a request that cannot be answered.

        Example:
            >>> len(pair.ask(pair.request("patch", layers=1, limit=4)).table)
            4
        """
        if self._live is not None:
            self.spec = self._live.refresh()
        task = questions.task(request, self._store)
        with tqdm(total=task.total, initial=task.done, desc=request.question, unit="cell", delay=SOON, leave=False) as bar:
            for _ in task.steps():
                bar.total = task.total
                bar.set_postfix_str(task.stage, refresh=False)
                bar.update(task.done - bar.n)
        return Result(request, task.table(), task.notices, provenance(request))

    def run(
        self,
        rows: Sequence[Intervention],
        prompts: Sequence[str | Prompt] | str | Path | None = None,
        metrics: Sequence[Metric | Function] = (kl, kl_to_donor),
        **fields: Any,
    ) -> Result:
        """Interventions of the user's own, all in as few passes as memory allows, and what each does to the next token.

        rows: made by `md.at`; each is run by itself. prompts: texts, prompts or a JSONL file; default: the domain's val split.
        metrics: `md.kl`, `md.kl_to_donor`, `md.logit_difference(...)`, `md.target_logprob(...)`, or functions of the patched, the
        clean and the donor's log-probabilities, [k, vocabulary] each, to [k]. fields: limit, direction, back, horizon, seed, ...
        Returns a row per prompt and intervention, in nats; KL is always there.
        Raises UserError for a site that the pair does not have, a state that does not fit, and a metric of another shape.

        Example:
            >>> double = lambda clean: 2 * clean.own
            >>> result = pair.run([md.at(0).donor(), md.at(1, "mlp_out").set(double)], ["What is 3 + 4?", "Say yes."])
            >>> list(result.table["prompt"])
            [0, 1, 0, 1]
        """
        in_file = isinstance(prompts, str | Path)
        chosen: dict[str, Any] = {"prompts": str(prompts)} if in_file else {"texts": as_prompts(prompts or ())}
        chosen |= {"rows": tuple(rows), "metrics": tuple(map(as_metric, metrics))}
        request = OwnRows(**self._fields(fields) | chosen | fields)
        return self.ask(request)

    def save(self, path: str | Path) -> None:
        """Write the pair's file, so that the command line and the app can open it. path: the file, which should end in .toml.

        Raises UserError if it cannot be written, and for models in memory.

        Example:
            >>> pair.save(folder / "again.toml")
            >>> md.load(folder / "again.toml").layers
            4
        """
        if self._live is not None:
            raise UserError("Models in memory have no pair file.\nTry:  save_pretrained, and md.load of the two folders")
        try:
            Path(path).write_text(toml_of(self.spec), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from None

    def __getattr__(self, name: str) -> Callable[..., Result]:
        if name.startswith("_") or name not in QUESTIONS:
            raise AttributeError(f"A pair has no question '{name}'. Its questions: {', '.join(QUESTIONS)}")
        return method(self, kind_of(name))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *QUESTIONS})

    def __repr__(self) -> str:
        return f"<ModelPair {self.name}: {self.spec.base.describe()} and {self.spec.tuned.describe()}>"

    def _repr_html_(self) -> str:
        """Both models, and the questions, for a notebook."""
        sides = "".join(f"<li>{side}: {html.escape(getattr(self.spec, side).describe())}</li>" for side in ("base", "tuned"))
        return f"<p><b>{html.escape(self.name)}</b></p><ul>{sides}</ul><p>Questions: {', '.join(QUESTIONS)}</p>"


def method(pair: ModelPair, kind: type[Question]) -> Callable[..., Result]:
    """A question as a method of a pair, with the question's fields as its signature and its help."""

    def answer(**fields: Any) -> Result:
        return pair.ask(pair.request(kind.question, **fields))

    specs = [spec for spec in dataclasses.fields(kind) if spec.name not in SETTINGS]
    parameters = [inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=s.default) for s in specs]
    answer.__signature__ = inspect.Signature(parameters, return_annotation=Result)  # type: ignore[attr-defined]
    answer.__name__ = answer.__qualname__ = kind.question
    lines = "\n".join(f"    {spec.name}: {explained(spec)}" for spec in specs)
    more = (inspect.getdoc(kind) or "").partition("\n\n")[2] or "Raises UserError for a value that is not valid."
    answer.__doc__ = f"{kind.title} {about(kind)}\n\n{lines}\n\n{more}"
    return answer


def explained(spec: dataclasses.Field) -> str:
    """A field's help, and its choices."""
    choices = ", ".join(spec.metadata["choices"])
    return f"{spec.metadata['help']}{f': {choices}' if choices else ''}"


def as_prompts(texts: Sequence[str | Prompt]) -> list[Prompt]:
    """Texts as prompts; each is a template of its own."""
    return [text if isinstance(text, Prompt) else Prompt(text, f"prompt {index}") for index, text in enumerate(texts, 1)]
