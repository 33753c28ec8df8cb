"""The report of the feature form: rows, pooled differences and groups, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from intervals import ScoredTurns, average_recall, in_points, note_on_few, paired_difference
from scipy.stats import wilcoxon
from voices import Voices


# The fields that name a run.
RUN = ("train", "test", "script", "blocks", "copies")
MODELS = (
    "utterance",
    "running_mean",
    "memory",
    "memory_reset",
    "memory_other",
    "memory_speaker",
    "oracle",
    "attention_8",
    "transitions",
    "memory_transitions",
    "memory_transitions_other",
    "network",
    "memory_network",
    "memory_network_reset",
    "memory_network_other",
)
# A dialogue without a partner has no other history to be compared with.
OF_PARTNERS = {"memory_other", "memory_transitions_other", "memory_network_other"}
# Of `results.json`, what the table of groups is made of.
KINDS = ("groups", "rows")
# With fewer dialogues, the interval against other histories is not shown.
FEWEST_DIALOGUES = 20
# What is subtracted from what, in the table of differences.
DIFFERENCES = (
    ("memory", "utterance"),
    ("memory", "memory_reset"),
    ("memory", "memory_other"),
    ("memory_reset", "utterance"),
    ("memory_other", "utterance"),
    ("memory", "running_mean"),
    ("memory", "transitions"),
    ("memory_speaker", "running_mean"),
    ("memory_speaker", "utterance"),
    ("running_mean", "utterance"),
    ("oracle", "utterance"),
    ("oracle", "memory"),
    ("oracle", "memory_speaker"),
    ("attention_8", "utterance"),
    ("transitions", "utterance"),
    ("memory_transitions", "utterance"),
    ("memory_transitions", "transitions"),
    ("memory_transitions", "memory"),
    ("memory_transitions", "memory_reset"),
    ("memory_transitions", "memory_transitions_other"),
    ("memory_transitions_other", "utterance"),
    ("network", "utterance"),
    ("memory", "network"),
    ("memory_network", "network"),
    ("memory_network", "utterance"),
    ("memory_network", "memory_network_reset"),
    ("memory_network", "memory_network_other"),
    ("memory_network_reset", "network"),
    ("memory_network_other", "network"),
    ("memory_network_reset", "utterance"),
    ("memory_network_other", "utterance"),
)


def report(saved: Mapping[int, Sequence[Mapping[str, np.ndarray]]], about: dict, voices: Voices) -> dict:
    """`rows` for each model, fold and seed, `differences` pooled over both, and the recall of each speaker.

    Args:
        saved: for each fold, what was saved with each seed.
        about: fields of the run, which every row has.
        voices: whose speakers were tested.
    """
    turns = ScoredTurns.join(
        [ScoredTurns(*(of[0][k] for k in ("emotions", "speakers", "dialogues"))) for of in saved.values()]
    )
    right = {
        name: np.concatenate([np.stack([seed[f"right_{name}"] for seed in of]) for of in saved.values()], axis=1)
        for name in MODELS
    }
    recalls = {(fold, number): recalls_of(seed) for fold, of in saved.items() for number, seed in enumerate(of)}
    rows = [
        {"listener": name, **about, "fold": fold, "seed": number, "turns": len(seed["emotions"]),
         "uar": recalls[fold, number][name], "conversations": len(set(seed["dialogues"].tolist()))}
        for name in right for fold, of in saved.items() for number, seed in enumerate(of)
    ]  # fmt: skip
    has_partner, from_training = (
        np.concatenate([of[0][name][of[0]["dialogues"]] for of in saved.values()])
        for name in ("has_partner", "from_training")
    )
    differences = []
    for name, over in DIFFERENCES:
        kept = has_partner if OF_PARTNERS & {name, over} else np.ones_like(has_partner)
        points = low = high = None
        if kept.any():
            points, low, high = paired_difference(right[name][:, kept], right[over][:, kept], turns.only(kept))
        differences.append({"listener": name, "over": over, **about, "points": points, "low": low, "high": high})
    everything = np.ones_like(has_partner)
    pooled = {name: _recall(name, hits, turns.emotions, everything, has_partner) for name, hits in right.items()}
    kept = has_partner & ~from_training
    hits = [right[name][:, kept] for name in ("memory", "memory_other")]
    over_partners = _over_partners(hits, turns.only(kept)) if kept.any() else None
    return {
        "rows": rows,
        "differences": differences,
        "groups": [{**about, **group} for group in _recalls_of_groups(saved, voices, right, has_partner)],
        "pooled": [{**about, "uar": pooled, **_counts(saved), "over_partners_of_test": over_partners}],
    }


def _over_partners(hits: Sequence[np.ndarray], turns: ScoredTurns) -> str:
    """The difference to partners of test speakers, with the number of dialogues that have one."""
    dialogues = len(np.unique(turns.dialogues))
    of = f" ({dialogues} dialogues)"
    return (in_points(*paired_difference(*hits, turns)) if dialogues >= FEWEST_DIALOGUES else "too few") + of


def _recalls_of_groups(
    saved: Mapping[int, Sequence[Mapping[str, np.ndarray]]],
    voices: Voices,
    right: Mapping[str, np.ndarray],
    has_partner: np.ndarray,
) -> list[dict]:
    """The recall of each model for each speaker and gender."""
    firsts = [of[0] for of in saved.values()]
    emotions, numbers = (np.concatenate([first[name] for first in firsts]) for name in ("emotions", "speakers"))
    gender = {utterance.speaker: utterance.gender for utterance in voices.utterances}
    names = np.array(voices.speakers)[numbers]
    groups = []
    for kind, values in (("speaker", names), ("gender", np.array([gender[name] for name in names]))):
        for value in sorted(set(values) - {""}):
            is_in = values == value
            recalls = {name: _recall(name, hits, emotions, is_in, has_partner) for name, hits in right.items()}
            groups.append({"kind": kind, "group": str(value), "turns": int(is_in.sum()), "uar": recalls})
    return groups


def _counts(saved: Mapping[int, Sequence[Mapping[str, np.ndarray]]]) -> dict[str, int]:
    """The numbers of folds, of dialogues and of their partners."""
    firsts = [of[0] for of in saved.values()]
    return {
        "folds": len(saved),
        "dialogues": sum(len(first["has_partner"]) for first in firsts),
        "skipped": sum(int(first["skipped"]) for first in firsts),
        "without_partner": sum(int((~first["has_partner"]).sum()) for first in firsts),
        "partners_from_training": sum(int(first["from_training"].sum()) for first in firsts),
        "different_partners": sum(
            len({*np.concatenate([seed["partner_numbers"] for seed in of]).tolist()} - {-1}) for of in saved.values()
        ),
    }


def is_of_this_version(part: Mapping[str, Sequence[Mapping]]) -> bool:
    """Whether a saved report has all that the tables need; another one is named and left out."""
    is_complete = all("over_partners_of_test" in pooled and {*MODELS} <= {*pooled["uar"]} for pooled in part["pooled"])
    if not is_complete:
        names = "; ".join(" ".join(str(pooled[key]) for key in RUN) for pooled in part["pooled"])
        print(f"Left out: the report of an earlier version ({names}). Run its command again.")
    return is_complete


def recalls_of(saved: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """The recall of each model in one fold with one seed; None where no turn can be scored."""
    has_partner = saved["has_partner"][saved["dialogues"]]
    everything = np.ones_like(has_partner)
    return {name: _recall(name, saved[f"right_{name}"], saved["emotions"], everything, has_partner) for name in MODELS}


def _recall(
    name: str, is_right: np.ndarray, emotions: np.ndarray, is_in: np.ndarray, has_partner: np.ndarray
) -> float | None:
    """Recall over some turns; models with another dialogue's history have no recall without one."""
    kept = is_in & has_partner if name in OF_PARTNERS else is_in
    return float(average_recall(np.atleast_2d(is_right)[:, kept], emotions[kept])[0]) if kept.any() else None


def table(results: dict) -> str:
    """The pooled recalls and differences as Markdown."""
    lines = []
    for pooled in results["pooled"]:
        name = f"{pooled['train']} to {pooled['test']}, {pooled['script']} emotions, blocks {pooled['blocks']}"
        name += f", copies {pooled['copies']}"
        counts = (
            f"{pooled['dialogues']} dialogues of {pooled['folds']} folds; {pooled['skipped']} draws needed an "
            f"utterance twice. Other histories: {pooled['different_partners']} different dialogues; those "
            f"of {pooled['partners_from_training']} dialogues are of training speakers, and "
            f"{pooled['without_partner']} dialogues have none; memory - memory_other with those of test speakers: "
            f"{pooled['over_partners_of_test']}."
        )
        lines += [f"\n{name}\n", counts, ""]
        lines += ["| model | UAR, % |", "| --- | ---: |"]
        lines += [f"| {model} | {percent(recall)} |" for model, recall in pooled["uar"].items()]
        lines += ["", "| difference | points (95 % interval) |", "| --- | ---: |"]
        lines += [
            f"| {row['listener']} - {row['over']} | {_points(row)} |"
            for row in results["differences"]
            if all(row[key] == pooled[key] for key in RUN)
        ]
        speakers = sum(row["kind"] == "speaker" and all(row[k] == pooled[k] for k in RUN) for row in results["groups"])
        if few := note_on_few(speakers):
            lines += ["", few]
        of_run = {kind: [row for row in results[kind] if all(row[k] == pooled[k] for k in RUN)] for kind in KINDS}
        lines += ["", *_groups(**of_run)]
    return "\n".join(lines)


def _groups(groups: Sequence[dict], rows: Sequence[dict]) -> list[str]:
    """The recalls of genders, of the worst speaker and of the one who loses most, and the gain in each fold."""
    recalls = {(row["kind"], row["group"]): row["uar"] for row in groups}
    gains = {name: recall["memory"] - recall["utterance"] for name, recall in recalls.items()}
    speakers = [name for name in recalls if name[0] == "speaker"]
    shown = [name for name in recalls if name[0] == "gender"]
    shown += [min(speakers, key=lambda name: recalls[name]["utterance"]), min(speakers, key=lambda name: gains[name])]
    lines = ["| group | utterance | memory |", "| --- | ---: | ---: |"]
    lines += [
        f"| {group} | {percent(recalls[kind, group]['utterance'])} | {percent(recalls[kind, group]['memory'])} |"
        for kind, group in shown
    ]
    of_speakers = np.array([gains[name] for name in speakers])
    p_value = wilcoxon(of_speakers).pvalue if of_speakers.any() else 1.0
    lines += [
        "",
        f"{(of_speakers > 0).sum()} of {len(speakers)} speakers gain (signed-rank test of the gains: "
        f"p = {p_value:.3f}).",
    ]
    for fold in dict.fromkeys(row["fold"] for row in rows):
        of_fold = [row for row in rows if row["fold"] == fold]
        utterance, memory = (
            np.mean([row["uar"] for row in of_fold if row["listener"] == name]) for name in ("utterance", "memory")
        )
        lines.append(f"Fold {fold}: utterance {percent(utterance)}, memory {100 * (memory - utterance):+.1f} points.")
    return lines


def percent(recall: float | None) -> str:
    return "-" if recall is None else f"{100 * recall:.1f}"


def _points(row: dict) -> str:
    if row["points"] is None:
        return "-"
    return in_points(row["points"], row["low"], row["high"])
