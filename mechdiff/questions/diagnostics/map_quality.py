"""How well does a fitted map predict one model's states from the other's? A line per layer and stream, without patching."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.extensions import key_of
from mechdiff.common.terms import STREAMS, sides
from mechdiff.inputs import prompts
from mechdiff.questions.shared.mapped import MappedQuestion
from mechdiff.questions.shared.table_tasks import StreamTablesTask

OVERLAPS = (1, 2, 4, 8, 16, 32, 64)
SPECTRUM = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 349, 384, 512, 1024, 2048)


@dataclass(frozen=True)
class Diagnostics:
    """Which maps. run: pair, train split, direction, map, streams and layers; its prompts are those not fitted on."""

    run: MappedQuestion

    def task(self, store: Store) -> "DiagnosticsTask":
        return DiagnosticsTask(self, store)


class DiagnosticsTask(StreamTablesTask):
    """A table with a line per layer and stream.

    r2_train, r2_val: share of the recipient's variance that is explained, on the train prompts and on the others.
    r2_whitened_train, r2_whitened_val, r2_whitened_shuffled: the same between whitened states, as in the original study; the last
    on val with the recipient's rows in another order. cka: debiased, mapped against recipient; cka_plain: the same, not debiased.
    cosine_mean, cosine_p10, cosine_p90: between mapped and recipient state. scale: the map's one scale, if it has one.
    effective_rank: of its outputs on train. shrinkage: how much narrower the mapped states spread than the recipient's, 0 for as
    wide. spectrum_k: the share of the first k singular values of the whitened cross-covariance in their sum. overlap_k: of the
    first k output directions, between maps of two halves of train.
    All but r2_train, scale, effective_rank and overlaps are of the prompts that the map was not fitted on.
    """

    def __init__(self, request: Diagnostics, store: Store):
        request.run.spec.check_same_shape()
        super().__init__(request.run, store, 2 * len(request.run.train_prompts))
        self.entering("reading the train split")

    @property
    def notices(self) -> list[str]:
        return self.run.notices

    def stream_key(self, stream: str) -> str:
        run = self.run
        parts = {"what": "diagnostics with spectrum", "stream": stream, "map": key_of("maps", run.map)}
        parts |= {"direction": run.direction, "layers": run.chosen_layers}
        return key(**parts, texts=prompts.digest(run.chosen_prompts), **self.identity.train, **self.identity.pair)

    def steps(self) -> Iterator[None]:
        if self.complete:
            return
        from mechdiff.questions.shared.states import States

        run = self.run
        train = States(
            self.identity, run.train_prompts, self.store, run.positions, run.seed, STREAMS if run.positions == 1 else run.streams
        )
        val = States(self.identity, run.chosen_prompts, self.store)
        waiting = sum(len(block) for states in (train, val) for _, block in states.missing())
        self.progress.total = max(waiting, 1)
        self.progress.done = self.total - waiting
        for states in (train, val):
            for count in states.steps():
                self.progress.done += count
                yield
        self.entering("fitting maps")
        for stream in self.missing:
            self.keep(stream, self._measure(stream, train, val))
            yield
        self.progress.done = self.total

    def _measure(self, stream: str, train, val) -> pd.DataFrame:
        import torch

        from mechdiff.maths import similarity
        from mechdiff.maths.linear_maps import effective_rank, output_directions, overlap, pca_spread
        from mechdiff.maths.named_maps import fit_of
        from mechdiff.maths.whitened import coloured, paired_directions
        from mechdiff.questions.shared.fitted_maps import shuffle

        layers, device = list(self.run.chosen_layers), self.identity.device
        x, y, new_x, new_y = (
            states.read(side, stream)[layers].to(device) for states in (train, val) for side in sides(self.run.direction)
        )
        source, target = pca_spread(x), pca_spread(y)
        fit = fit_of(self.run.map, self.run.seed)
        fitted = fit(source, target)
        mapped, recipient = fitted.apply(new_x.double()), new_y.double()
        on_train = fitted.apply(x.double())
        mean = target.mean.unsqueeze(1)

        def explained(predicted, true):
            return 1 - (true - predicted).square().sum((1, 2)) / (true - mean).square().sum((1, 2))

        def explained_whitened(predicted, true):
            """In the space where the recipient's shrunk covariance is the identity."""
            white = [coloured(target, (states - mean).mT, -0.5).mT for states in (predicted, true)]
            return 1 - (white[1] - white[0]).square().sum((1, 2)) / white[1].square().sum((1, 2))

        shuffled = recipient[:, shuffle(recipient.shape[1], self.run.seed)]
        cosine = torch.cosine_similarity(mapped, recipient, dim=-1)
        narrow = (mapped - mapped.mean(1, keepdim=True)).norm(dim=(1, 2)) / (recipient - recipient.mean(1, keepdim=True)).norm(
            dim=(1, 2)
        )
        order = torch.randperm(int(train.groups.max()) + 1, generator=torch.Generator().manual_seed(self.run.seed))
        bases = []
        for half in order.tensor_split(2):
            rows = torch.isin(train.groups, half).nonzero().squeeze(1)
            part = pca_spread(x[:, rows])
            bases.append(output_directions(fit(part, pca_spread(y[:, rows])), part))
        columns = {
            "r2_train": explained(on_train, y.double()),
            "r2_val": explained(mapped, recipient),
            "r2_whitened_train": explained_whitened(on_train, y.double()),
            "r2_whitened_val": explained_whitened(mapped, recipient),
            "r2_whitened_shuffled": explained_whitened(mapped, shuffled),
            "cka_plain": similarity.cka_of_grams(similarity.grams(mapped), similarity.grams(recipient), debiased=False),
            "cka": similarity.cka_of_grams(similarity.grams(mapped), similarity.grams(recipient), debiased=True),
            "cosine_mean": cosine.mean(1),
            "cosine_p10": cosine.quantile(0.1, dim=1),
            "cosine_p90": cosine.quantile(0.9, dim=1),
            "scale": getattr(fitted, "size", torch.full((len(layers),), torch.nan)),
            "effective_rank": effective_rank(pca_spread(on_train).scale),
            "shrinkage": 1 - narrow,
        }
        if self.run.map.startswith("procrustes_"):
            strength = paired_directions(source, target)[2]
            share = strength / strength[:, -1:]
            columns |= {f"spectrum_{k}": share[:, k - 1] for k in SPECTRUM if k <= share.shape[1]}
        first, second = bases
        columns |= {f"overlap_{k}": overlap(first, second, k) for k in OVERLAPS if k <= min(first.shape[-1], second.shape[-1])}
        return pd.DataFrame(
            {"layer": layers, "stream": stream} | {name: values.cpu().numpy() for name, values in columns.items()}
        )

    def table(self) -> pd.DataFrame:
        if not any(table is not None for table in self.tables.values()):
            return pd.DataFrame(columns=["layer", "stream", "r2_train", "r2_val"])
        run, table = self.run, self.joined([])
        named = {"pair": run.spec.name, "domain": run.chosen_domain, "direction": run.direction, "map": run.map}
        return pd.DataFrame(named, index=table.index).join(table)
